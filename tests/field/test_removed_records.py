"""Records were removed (retention, XTRIM) before the group had read them, and nobody heard of it.

A group goes on behind them. What it has lost is counted once, whichever member finds out, and logged in one
line.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from eventml.backends import redis
from eventml.backends.base import Completion, CountsLost
from eventml.records import Record
from tests.brokers import needs_redis
from tests.kafka.conftest import connected, new_topic, receive
from tests.redis import scene

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster
    from backends.redis.server import RedisServer
    from tests.brokers import StartRedis

pytestmark = pytest.mark.anyio

COUNTING = ("7.0", "counting what a group has not read")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "removed" in r.getMessage()
    ]


def lost(subscription: Any) -> int:
    assert isinstance(subscription, CountsLost)
    return subscription.lost


async def delete_before(cluster: KafkaCluster, topic: str, offset: int) -> None:
    def delete() -> None:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        [done] = admin.delete_records([TopicPartition(topic, 0, offset)]).values()
        done.result(timeout=20)

    await anyio.to_thread.run_sync(delete)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_kafka_counts_what_retention_removed(
    kafka_broker: KafkaCluster, delivery: str, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await new_topic(kafka_broker, partitions=1)
    records = [Record(topic, b"", None, f"id-{n}") for n in range(60)]
    async with connected(kafka_broker, delivery=delivery) as backend:
        await backend.publish(records[:50])
        async with backend.subscribe([topic], group="g", start="earliest") as member:
            await member.complete([Completion(one) for one in await receive(member, 10, limit=10)])
        await delete_before(kafka_broker, topic, 50)
        async with backend.subscribe([topic], group="g", start="earliest") as member:
            async with asyncio.timeout(30):
                while lost(member) != 40 or await member.lag():  # where the group goes on is committed
                    with anyio.move_on_after(0.05):
                        await member.receive(1)
        [line] = warnings(caplog)
        for part in ("group g", topic, "partition 0", "40 records", "offsets 10 to 49", "retention"):
            assert part in line
        async with backend.subscribe([topic], group="g", start="earliest") as member:
            await backend.publish(records[50:])
            found = await receive(member, 10)
            assert [one.record.id for one in found] == [record.id for record in records[50:]]
            await member.complete([Completion(one) for one in found])
            assert lost(member) == 0
    assert len(warnings(caplog)) == 1


async def test_kafka_where_the_log_ends_before_the_groups_offset(
    kafka_broker: KafkaCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """The topic was created again: it is read from its beginning, and what is lost cannot be counted."""
    topic = await new_topic(kafka_broker, partitions=1)

    def commit() -> None:
        admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})
        offsets = [ConsumerGroupTopicPartitions(f"g-{topic}", [TopicPartition(topic, 0, 500)])]
        [done] = admin.alter_consumer_group_offsets(offsets).values()
        done.result(timeout=20)

    await anyio.to_thread.run_sync(commit)
    async with connected(kafka_broker) as backend:
        await backend.publish([Record(topic, b"", None, f"id-{n}") for n in range(5)])
        async with backend.subscribe([topic], group=f"g-{topic}", start="latest") as member:
            found = await receive(member, 5)
            await member.complete([Completion(one) for one in found])
            assert await member.lag() == 0
            assert lost(member) == 0
    assert "unknown number" in caplog.text


async def test_redis_counts_what_was_trimmed_unread(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    needs_redis(redis_server, *COUNTING)
    topic = scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
    ):
        async with backend.subscribe([topic], group="g", start="earliest"):
            await scene.until(lambda: counted(client, topic, 0), "the group's count has not begun")
        await backend.publish(scene.new_records(topic, 100))
        await client.xtrim(topic, maxlen=60, approximate=False)
        async with (  # of two members one counts them
            backend.subscribe([topic], group="g", start="earliest") as first,
            backend.subscribe([topic], group="g", start="earliest") as second,
        ):
            found = await scene.take(first, 60)
            assert {one.record.id for one in found} == {f"r{n}" for n in range(40, 100)}
            await first.complete([Completion(one) for one in found])
            assert lost(first) + lost(second) == 40
            [line] = warnings(caplog)
            for part in ("'g'", topic, "40 entries", "0-0", str(found[0].offset), "max_length"):
                assert part in line
        await backend.publish(scene.new_records(topic, 30, start=100))
        await client.xtrim(topic, maxlen=0, approximate=False)  # now also all that is left
        async with backend.subscribe([topic], group="g", start="earliest") as member:
            await scene.until(lambda: is_lost(member, 30), "the trimmed entries were not counted")
        async with backend.subscribe([topic], group="g", start="earliest") as member:
            await backend.publish(scene.new_records(topic, 1, start=130))
            await scene.take(member, 1)
            assert lost(member) == 0
    assert len(warnings(caplog)) == 2


async def test_redis_counts_unread_entries_that_were_deleted(redis_server: RedisServer) -> None:
    needs_redis(redis_server, *COUNTING)
    topic = scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
    ):
        await backend.publish(scene.new_records(topic, 20))
        async with backend.subscribe([topic], group="g", start="latest"):
            await scene.until(lambda: counted(client, topic, 20), "the group's count has not begun")
        await backend.publish(scene.new_records(topic, 20, start=20))
        entries = [entry for entry, _ in await client.xrange(topic)]
        await client.xdel(topic, *entries[:27])  # 20 that the group does not count, and 7 unread ones
        async with backend.subscribe([topic], group="g", start="latest") as member:
            found = await scene.take(member, 13)
            await member.complete([Completion(one) for one in found])
            assert lost(member) == 7


@pytest.mark.parametrize("retention", [None, 0.0])
async def test_redis_counts_nothing_where_nothing_is_lost(
    redis_server: RedisServer, retention: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Entries that the group has read may go: by its own retention, by XTRIM, or before it was created."""
    topic = scene.new_topic()
    settings = redis.Settings(retention=retention, lease=0.6)
    async with redis.open(redis_server.url, settings) as backend, scene.asking(redis_server.url) as client:
        await backend.publish(scene.new_records(topic, 50))
        await client.xtrim(topic, maxlen=40, approximate=False)
        for start in (50, 100):
            async with backend.subscribe([topic], group="g", start="earliest") as member:
                await backend.publish(scene.new_records(topic, 50, start=start))
                found = await scene.take(member, 90 if start == 50 else 50)
                await member.complete([Completion(one) for one in found])
                await client.xtrim(topic, maxlen=0, approximate=False)
                assert lost(member) == 0
    assert warnings(caplog) == []


@pytest.mark.parametrize("rewritten", [False, True])
async def test_redis_counts_nothing_after_a_restart(
    start_redis: StartRedis, rewritten: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The server does not write down how many entries a group has read, and starts with what it knew once."""
    server = start_redis(appendfsync="always")
    needs_redis(server, *COUNTING)
    topic, settings = scene.new_topic(), redis.Settings(lease=0.6)
    async with (
        redis.open(server.url, settings) as backend,
        backend.subscribe([topic], group="g", start="earliest") as member,
        scene.asking(server.url) as client,
    ):
        await backend.publish(scene.new_records(topic, 40))
        await member.complete([Completion(one) for one in await scene.take(member, 40)])
        await scene.until(lambda: counted(client, topic, 40), "the group's count has not begun")
        if rewritten:
            await client.bgrewriteaof()
            await scene.until(lambda: is_rewritten(client), "the AOF was not rewritten")
        before = await looked(client)
        await backend.publish(scene.new_records(topic, 60, start=40))
        await member.complete([Completion(one) for one in await scene.take(member, 60)])
        if rewritten:  # else the server has written down from the beginning that it does not know
            await scene.until(lambda: looked(client, before), "no member has looked again")
        server.kill()
    server.start()
    async with redis.open(server.url, settings) as backend, scene.asking(server.url) as client:
        async with backend.subscribe([topic], group="g", start="earliest") as member:
            await scene.until(lambda: counted(client, topic, 100), "the group's count has not begun again")
            assert await member.lag() == 0
            assert lost(member) == 0
        await backend.publish(scene.new_records(topic, 5, start=100))
        await client.xtrim(topic, maxlen=0, approximate=False)
        async with backend.subscribe([topic], group="g", start="earliest") as member:
            await scene.until(lambda: is_lost(member, 5), "the trimmed entries were not counted")
    assert len(warnings(caplog)) == 1


async def is_rewritten(client: Any) -> bool:
    found = await client.info("persistence")
    return not found["aof_rewrite_in_progress"] and not found["aof_rewrite_scheduled"]


async def looked(client: Any, before: int = -2) -> int:
    """How many commands have set a count, two at a time; 0 if none have since there were `before`."""
    calls = int((await client.info("commandstats"))["cmdstat_xgroup|setid"]["calls"])
    return calls if calls >= before + 2 else 0


async def counted(client: Any, topic: str, count: int) -> bool:
    groups = await client.xinfo_groups(topic) if await client.exists(topic) else []
    return [group["entries-read"] for group in groups] == [count]


async def is_lost(subscription: Any, count: int) -> bool:
    return lost(subscription) == count
