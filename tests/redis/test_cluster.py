"""A Redis Cluster: topics of one slot are completed in one step, others are refused."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

import eventml
from backends.process import free_ports, is_free
from backends.redis import acl
from eventml import config
from eventml.backends import redis
from eventml.errors import ConfigError, UnsupportedError
from tests.redis import scene
from tests.redis.users import set_user, url_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.redis.server import RedisServer
    from tests.brokers import StartRedis

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

BUS = 10_000  # nodes talk to each other on the port that is so much higher
FIRST_EPHEMERAL = 32_768

SETTINGS = redis.Settings(cluster=True, lease=1.0)


@pytest.fixture
async def cluster(start_redis: StartRedis) -> Sequence[RedisServer]:
    """Three masters that share the slots."""
    settings = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "save": ""}
    ports = (port for port in free_ports() if port < FIRST_EPHEMERAL - BUS and is_free(port + BUS))
    servers = [start_redis(port=next(ports), settings=settings) for _ in range(3)]
    for number, server in enumerate(servers):
        slots = range(number * 5_462, min((number + 1) * 5_462, 16_384))
        async with scene.asking(server.url) as client:
            await client.execute_command("CLUSTER ADDSLOTS", *slots)
            await client.execute_command("CLUSTER MEET", "127.0.0.1", servers[0].port)
    for server in servers:
        async with scene.asking(server.url) as client:
            await scene.until(lambda client=client: _formed(client), "the cluster did not form")  # type: ignore[misc]  # bound now
    return servers


async def _formed(client: Any) -> bool:
    info = await client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == 3)


async def everywhere(cluster: Sequence[RedisServer], topic: str) -> Any:
    """The ids at a topic, on whichever node it is."""
    for server in cluster:
        async with scene.asking(server.url) as client:
            if topic.encode() in await client.keys("*"):
                return await scene.ids(client, topic)
    return {}


async def test_topics_with_one_hash_tag_are_completed_in_one_step(cluster: Sequence[RedisServer]) -> None:
    tag = f"{{{scene.new_topic()}}}"
    topic, to = f"{tag}.started", f"{tag}.duration"
    records = scene.new_records(topic, 500)
    async with redis.open(cluster[2].url, SETTINGS) as backend:
        backend.check_outputs(topic, [to, f"{topic}.group.dlq"])
        await backend.publish(records)
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            done = scene.answers(await scene.take(member, 500), to)
            await member.complete(done)
            await member.complete(done)
            assert await member.lag() == 0
        assert await backend.lag(topic, group="group") == {0: 0}
    assert await everywhere(cluster, to) == scene.answered(records)


async def test_the_users_of_the_template_need_no_more_rights_in_a_cluster(
    cluster: Sequence[RedisServer],
) -> None:
    tag = f"{{{scene.new_topic()}}}"
    topic, to = f"{tag}.started", f"{tag}.duration"
    records = scene.new_records(topic, 20)
    for server in cluster:
        async with scene.asking(server.url) as client:
            for user in acl.USERS:
                await client.execute_command(*set_user(user, keys=(f"{tag}*",)))
    producer, consumer, operator = (url_of(cluster[2].url, user) for user in acl.USERS)
    async with (
        redis.open(producer, SETTINGS) as publishing,
        redis.open(consumer, SETTINGS) as backend,
        backend.subscribe_deduplicated([topic], group="group", start="earliest", window=100) as member,
        redis.open(operator, SETTINGS) as looking,
    ):
        await publishing.publish(records)
        await member.complete(scene.answers(await scene.take(member, 20), to))
        assert await looking.lag(topic, group="group") == {0: 0}
        async with looking.subscribe([to], group="group.replay", start="earliest") as replaying:
            await replaying.complete(scene.answers(await scene.take(replaying, 20), topic))
    assert len(await everywhere(cluster, topic)) == 40


async def test_topics_of_different_slots_are_refused(
    cluster: Sequence[RedisServer],
) -> None:
    topic, to = apart("rides.started", "rides.duration")
    async with redis.open(cluster[0].url, SETTINGS) as backend:
        with pytest.raises(UnsupportedError, match=r"'\{rides\}\.started.*'\{rides\}\.duration"):
            backend.check_outputs(topic, [to])
        await backend.publish(scene.new_records(topic, 1))
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            taken = await scene.take(member, 1)
            with pytest.raises(UnsupportedError):
                await member.complete(scene.answers(taken, to))
            await member.complete(scene.answers(taken, f"{topic}"))
    assert await everywhere(cluster, to) == {}


async def test_a_handler_of_topics_of_different_slots_is_refused_at_start(
    cluster: Sequence[RedisServer],
) -> None:
    topic, to = apart("rides.started", "rides.duration")
    bus = eventml.Bus("rides")
    bus.configure(config.load(environ={}))
    bus.predictor(topic, to=to, name="duration")(lambda ride: ride)
    async with redis.open(cluster[0].url, SETTINGS) as backend, bus.open(backend):
        with pytest.raises(UnsupportedError, match="hash tag"):
            async with bus.worker():
                pytest.fail("it must not start")


async def test_one_call_publishes_to_all_nodes_and_one_member_reads_them(
    cluster: Sequence[RedisServer],
) -> None:
    topics = [scene.new_topic() for _ in range(12)]
    records = [r for n, topic in enumerate(topics) for r in scene.new_records(topic, 20, start=100 * n)]
    async with redis.open(cluster[1].url, SETTINGS) as backend:
        await backend.publish(records)
        async with (
            backend.subscribe(topics, group="group", start="earliest") as member,
            backend.subscribe(topics, group=None, start="earliest") as reader,
        ):
            for subscription in (member, reader):
                taken = await scene.take(subscription, len(records))
                assert sorted(d.record.id for d in taken) == sorted(r.id for r in records)
            assert await member.lag() == len(records)


async def test_a_member_takes_the_place_of_a_dead_one_at_all_nodes(cluster: Sequence[RedisServer]) -> None:
    settings = redis.Settings(cluster=True, lease=600.0)
    topics = [scene.new_topic() for _ in range(12)]
    records = [r for n, topic in enumerate(topics) for r in scene.new_records(topic, 5, start=100 * n)]
    async with redis.open(cluster[1].url, settings) as dead, redis.open(cluster[2].url, settings) as backend:
        for one in (dead, backend):
            one.name_members("one")
        async with dead.subscribe(topics, group="group", start="earliest") as member:
            await dead.publish(records)
            await scene.take(member, len(records))  # it completes nothing, and does not leave
            async with backend.subscribe(topics, group="group", start="earliest") as successor:
                taken = await scene.take(successor, len(records))
                assert sorted(d.record.id for d in taken) == sorted(r.id for r in records)


async def test_a_slot_that_moves_is_followed(cluster: Sequence[RedisServer]) -> None:
    tag = f"{{{scene.new_topic()}}}"
    topic, to = f"{tag}.started", f"{tag}.duration"
    before, after = scene.new_records(topic, 100), scene.new_records(topic, 100, start=100)
    async with redis.open(cluster[0].url, SETTINGS) as backend:
        await backend.publish(before)
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            done = scene.answers(await scene.take(member, 100), to)
            await move(cluster, int(key_slot(topic.encode())))
            await scene.complete(member, done)
            await backend.publish(after)
            await scene.complete(member, scene.answers(await scene.take(member, 100), to))
    assert await everywhere(cluster, to) == scene.answered([*before, *after])


async def move(cluster: Sequence[RedisServer], slot: int) -> None:
    """Move a slot, with all that is in it, to another node."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(scene.asking(server.url)) for server in cluster]
        names = [await client.execute_command("CLUSTER MYID") for client in clients]
        source = min(slot // 5_462, 2)
        target = (source + 1) % 3
        await clients[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[source])
        await clients[source].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[target])
        for key in await clients[source].execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
            place = ("127.0.0.1", cluster[target].port, key, 0, 5_000)
            await clients[source].execute_command("MIGRATE", *place)
        for client in clients:
            await client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[target])


async def test_a_server_that_is_no_cluster_is_refused(start_redis: StartRedis) -> None:
    server = start_redis()
    with pytest.raises(ConfigError, match=r"backend\.cluster"):
        async with redis.open(server.url, SETTINGS):
            pass


async def test_a_node_that_restarts_is_found_again(cluster: Sequence[RedisServer]) -> None:
    tag = f"{{{scene.new_topic()}}}"
    topic, to = f"{tag}.started", f"{tag}.duration"
    records = scene.new_records(topic, 100)
    home = cluster[min(int(key_slot(topic.encode())) // 5_462, 2)]
    url = f"redis://{','.join(f'127.0.0.1:{server.port}' for server in cluster)}"
    async with redis.open(url, SETTINGS) as backend:
        await backend.publish(records)
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            done = scene.answers(await scene.take(member, 50), to)
            await asyncio.to_thread(home.restart)
            await scene.complete(member, done)
            await scene.complete(member, scene.answers(await scene.take(member, 50), to))
    assert await everywhere(cluster, to) == scene.answered(records)


def apart(topic: str, other: str) -> tuple[str, str]:
    """Names beginning like these, for topics in different slots."""
    while key_slot(topic.encode()) == key_slot(other.encode()):
        other += "x"
    return topic, other
