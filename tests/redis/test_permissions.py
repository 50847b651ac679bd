"""Permissions and passwords that change at run time: nothing is lost, and work goes on when they are back."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import eventml
from eventml.backends import redis
from eventml.backends.base import Completion
from eventml.errors import BackendError, LoginError, PublishError, UnavailableError
from tests.redis import scene

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from backends.redis.server import RedisServer
    from tests.brokers import StartRedis

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

SETTINGS = redis.Settings(lease=5.0, publish_timeout=0.2)
USER = "worker"


class Acl:
    """Changes the rights of one user, as an administrator."""

    def __init__(self, client: Any, url: str) -> None:
        self.client = client
        self.url = url.replace("://", f"://{USER}:secret@")

    async def set(self, *rules: str) -> None:
        await self.client.execute_command("ACL", "SETUSER", USER, *rules)

    async def disconnect(self) -> None:
        await self.client.execute_command("CLIENT", "KILL", "USER", USER)


@asynccontextmanager
async def restricted(server: RedisServer) -> AsyncIterator[Acl]:
    """A user with all rights, until a test takes some away."""
    async with scene.asking(server.url) as client:
        acl = Acl(client, server.url)
        await acl.set("reset", "on", ">secret", "~*", "+@all")
        yield acl
        await client.execute_command("ACL", "DELUSER", USER)


@pytest.mark.parametrize(
    ("revoked", "granted"),
    [
        pytest.param(("-evalsha",), ("+evalsha",), id="the script"),
        pytest.param(("-xadd",), ("+xadd",), id="a command of the script"),
        pytest.param(("resetkeys", "~none"), ("~*",), id="the keys"),
    ],
)
async def test_a_completion_without_permission_passes_once_it_is_granted(
    redis_server: RedisServer, revoked: tuple[str, ...], granted: tuple[str, ...]
) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 10)
    async with (
        restricted(redis_server) as acl,
        redis.open(acl.url, SETTINGS) as backend,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(records)
        done = scene.answers(await scene.take(member, 10), to)
        await acl.set(*revoked)
        for _ in range(2):
            with pytest.raises(BackendError, match=r"completing .*ACL SETUSER") as caught:
                await member.complete(done)
            assert not isinstance(caught.value, (PublishError, UnavailableError))
        assert await acl.client.xlen(to) == 0
        assert (await acl.client.xpending(topic, "group"))["pending"] == 10
        await acl.set(*granted)
        await member.complete(done)
        assert await scene.ids(acl.client, to) == scene.answered(records)
        assert await member.lag() == 0


async def test_acks_beside_a_denied_output_are_harmless_to_repeat(redis_server: RedisServer) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    async with (
        restricted(redis_server) as acl,
        redis.open(acl.url, SETTINGS) as backend,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(scene.new_records(topic, 4))
        taken = await scene.take(member, 4)
        done = [*map(Completion, taken[:2]), *scene.answers(taken[2:], to)]
        await acl.set("-xadd")
        with pytest.raises(BackendError, match="completing"):
            await member.complete(done)
        await acl.set("+xadd")
        await member.complete(done)
        assert await scene.ids(acl.client, to) == scene.once(["r2/answer", "r3/answer"])
        assert await member.lag() == 0


@pytest.mark.parametrize("group", ["group", None])
async def test_a_read_without_permission_passes_once_it_is_granted(
    redis_server: RedisServer, group: str | None
) -> None:
    topic = scene.new_topic()
    async with (
        restricted(redis_server) as acl,
        redis.open(acl.url, SETTINGS) as backend,
        backend.subscribe([topic], group=group, start="earliest") as subscription,
    ):
        await backend.publish(scene.new_records(topic, 5))
        await scene.take(subscription, 5)
        await acl.set("-xreadgroup", "-xread")
        with pytest.raises(BackendError, match=r"reading.*ACL SETUSER"):  # noqa: PT012 - a read may be under way
            while True:
                await backend.publish(scene.new_records(topic, 1, start=5))
                await subscription.receive(10)
        await acl.set("+xreadgroup", "+xread")
        await backend.publish(scene.new_records(topic, 1, start=6))
        taken = await scene.take(subscription, 1)
        while taken[-1].record.id != "r6":
            taken += await scene.take(subscription, 1)


async def test_publishing_without_permission_names_the_records(redis_server: RedisServer) -> None:
    topic, other = scene.new_topic(), scene.new_topic()
    async with restricted(redis_server) as acl, redis.open(acl.url, SETTINGS) as backend:
        await acl.set("resetkeys", f"~{topic}")
        with pytest.raises(PublishError, match=f"1 of 3 records .*{other}.*ACL SETUSER") as caught:
            await backend.publish([*scene.new_records(topic, 2), *scene.new_records(other, 1, start=2)])
        assert set(caught.value.failed) == {2}
        assert await scene.ids(acl.client, topic) == scene.once(["r0", "r1"])


async def test_a_password_that_was_changed(redis_server: RedisServer) -> None:
    """Open connections go on; without them, no call raises ConfigError, and each passes once it is back."""
    topic, to = scene.new_topic(), scene.new_topic()
    async with (
        restricted(redis_server) as acl,
        redis.open(acl.url, SETTINGS) as backend,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        records = scene.new_records(topic, 5)
        await backend.publish(records)
        done = scene.answers(await scene.take(member, 5), to)
        await acl.set("resetpass", ">another")
        await backend.publish([])
        await acl.disconnect()
        with pytest.raises(BackendError, match="WRONGPASS"):
            await scene.complete(member, done)
        with pytest.raises(BackendError, match="WRONGPASS"):
            await scene.receive(member)
        with pytest.raises(PublishError, match="WRONGPASS") as caught:
            await publish(backend, scene.new_records(topic, 2, start=5))
        assert set(caught.value.failed) == {0, 1}
        with pytest.raises(LoginError, match=r"backend\.url: .*refuses the user or the password"):
            async with redis.open(acl.url, SETTINGS):
                pass
        await acl.set("resetpass", ">secret")
        await scene.complete(member, done)
        assert await scene.ids(acl.client, to) == scene.answered(records)
        await publish(backend, scene.new_records(topic, 1, start=5))


async def publish(backend: redis.RedisBackend, records: list[eventml.Record]) -> None:
    """Publish, however often the connection turns out to be lost."""
    while True:
        try:
            return await backend.publish(records)
        except UnavailableError:
            continue


async def test_a_server_that_becomes_a_replica(start_redis: StartRedis) -> None:
    """It refuses writes (READONLY), and the work waits until there is a master again."""
    server, master = start_redis(), start_redis()
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 5)
    async with (
        redis.open(server.url, SETTINGS) as backend,
        scene.asking(server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(records)
        done = scene.answers(await scene.take(member, 5), to)
        master.kill()  # so that the data stays
        await client.execute_command("REPLICAOF", "127.0.0.1", master.port)
        with pytest.raises(UnavailableError, match="READONLY"):
            await member.complete(done)
        with pytest.raises(UnavailableError, match="READONLY"):
            await backend.publish(scene.new_records(topic, 1, start=5))
        await client.execute_command("REPLICAOF", "NO", "ONE")
        await scene.complete(member, done)
        assert await scene.ids(client, to) == scene.answered(records)


async def test_a_topic_whose_key_holds_something_else(redis_server: RedisServer) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    async with (
        redis.open(redis_server.url, SETTINGS) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(scene.new_records(topic, 5))
        done = scene.answers(await scene.take(member, 5), to)
        await client.set(topic, "a string")
        with pytest.raises(BackendError, match=f"{topic}.*no stream"):
            await member.complete(done)
        with pytest.raises(BackendError, match="no stream"):  # noqa: PT012 - a read may be under way
            while True:
                await scene.receive(member)
        with pytest.raises(PublishError, match="no stream"):
            await backend.publish(scene.new_records(topic, 1))
        await client.delete(topic)


async def test_a_worker_waits_for_its_permission(redis_server: RedisServer) -> None:
    """Nothing becomes a dead letter, and every event is answered once the permission is granted."""
    topic, to = scene.new_topic(), scene.new_topic()
    bus = eventml.Bus("permissions")
    calls: list[int] = []

    def double(batch: list[int]) -> list[dict[str, int]]:
        calls.extend(batch)
        return [{"is": 2 * number} for number in batch]

    bus.predictor(topic, to=to, group="group", name="double")(double)
    records = scene.new_records(topic, 20)
    async with restricted(redis_server) as acl, redis.open(redis_server.url, SETTINGS) as backend:
        async with scene.working(bus, acl.url, SETTINGS) as worker:
            await backend.publish(records[:1])
            await scene.until(lambda: worker.stats["double"].completed == 1, "not completed")
            await acl.set("-evalsha")
            await backend.publish(records[1:])
            await scene.until(lambda: len(calls) > 1, "the handler was not called")
            assert await acl.client.xlen(to) == 1
            await acl.set("+evalsha")
            await scene.until(lambda: worker.stats["double"].completed == 20, "not completed")
        assert worker.stats["double"].dead_letters == 0
        assert await scene.ids(acl.client, to) == scene.once(f"{record.id}/double" for record in records)
