"""A server that is killed, flushed, full, or hangs: acknowledged records are kept and have one output."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import eventml
from eventml.backends import redis
from eventml.errors import BackendError, FullError, UnavailableError
from tests.redis import scene

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from backends.redis.server import RedisServer
    from tests.brokers import StartRedis

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

SETTINGS = redis.Settings(lease=1.0, publish_timeout=5.0)


@asynccontextmanager
async def answering(url: str, topic: str, to: str) -> AsyncIterator[Any]:
    """A worker whose handler answers each number with itself."""
    bus = eventml.Bus("faults")

    def answer(batch: list[int]) -> list[dict[str, int]]:
        return [{"of": number} for number in batch]

    bus.predictor(topic, to=to, group="group", name="answer", max_batch=50)(answer)
    async with scene.working(bus, url, SETTINGS) as worker:
        yield worker


async def answers_of(client: Any, topic: str, to: str) -> tuple[Any, Any]:
    """The ids that the answers should have, and those that they have."""
    asked = await scene.ids(client, topic)
    assert set(asked.values()) <= {1}, "a record is there twice"
    return scene.once(f"{id_}/answer" for id_ in asked), await scene.ids(client, to)


async def test_killed_and_restarted_under_load(start_redis: StartRedis) -> None:
    server = start_redis(appendfsync="always")
    topic, to = scene.new_topic(), scene.new_topic()
    acknowledged: set[str] = set()
    kills = 0
    number = 0

    async def publish(backend: redis.RedisBackend) -> None:
        nonlocal number
        while kills < 5:
            records = scene.new_records(topic, 20, start=number)
            number += len(records)
            try:
                await backend.publish(records)
            except UnavailableError:
                continue  # unknown, so it is not repeated
            acknowledged.update(record.id for record in records)

    async with redis.open(server.url, SETTINGS) as backend:
        async with answering(server.url, topic, to), anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(publish, backend)
            while kills < 5:
                before = len(acknowledged)
                await scene.until(lambda before=before: len(acknowledged) > before + 500, "no load")  # type: ignore[misc]  # bound now
                server.kill()
                await anyio.to_thread.run_sync(server.start)
                kills += 1
            tasks.cancel_scope.cancel()
        async with scene.asking(server.url) as client:
            async with answering(server.url, topic, to):
                await scene.until(lambda: _finished(backend, topic), "not all were finished")
            asked = await scene.ids(client, topic)
            assert acknowledged <= set(asked), "an acknowledged record was lost"
            wanted, got = await answers_of(client, topic, to)
            assert got == wanted


async def _finished(backend: redis.RedisBackend, topic: str) -> bool:
    return await backend.lag(topic, group="group") == {0: 0}


async def test_flushed_while_it_waits(start_redis: StartRedis, caplog: pytest.LogCaptureFixture) -> None:
    """The group is created again, and records published afterwards are delivered; the loss is logged."""
    server = start_redis()
    topic, to = scene.new_topic(), scene.new_topic()
    async with (
        redis.open(server.url, SETTINGS) as backend,
        scene.asking(server.url) as client,
        backend.subscribe([topic], group="group", start="latest") as member,
    ):
        for number in range(10):
            waiting = True
            records = scene.new_records(topic, 20, start=100 * number)
            got: list[Any] = []

            async def wait(got: list[Any] = got) -> None:
                got += await scene.take(member, 20)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.sleep(0.02)
                await client.flushall()
                await backend.publish(records)
            assert [d.record.id for d in got] == [record.id for record in records]
            await scene.complete(member, scene.answers(got, to))
            assert await scene.ids(client, to) == scene.answered(records)
            assert waiting
        assert caplog.text.count("did not exist any more") == 10


async def test_flushed_while_deliveries_are_in_flight(start_redis: StartRedis) -> None:
    """Deliveries in flight are lost with the rest: completing them has no effect."""
    server = start_redis()
    topic, to = scene.new_topic(), scene.new_topic()
    async with (
        redis.open(server.url, SETTINGS) as backend,
        scene.asking(server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(scene.new_records(topic, 10))
        taken = await scene.take(member, 10)
        await client.flushall()
        await member.complete(scene.answers(taken, to))
        records = scene.new_records(topic, 10, start=10)
        await backend.publish(records)
        await member.complete(scene.answers(await scene.take(member, 10), to))
        assert await scene.ids(client, to) == scene.answered(records)


@pytest.mark.parametrize("found", ["when attempts are counted", "by the upkeep"])
async def test_flushed_before_the_calls(start_redis: StartRedis, found: str) -> None:
    """No handler is called with deliveries of a group that is gone, first deliveries included."""
    server = start_redis()
    topic = scene.new_topic()
    async with (
        redis.open(server.url, redis.Settings(lease=600.0)) as backend,
        scene.asking(server.url) as client,
    ):
        await backend.publish(scene.new_records(topic, 5))
        async with backend.subscribe([topic], group="group", start="earliest") as former:
            await scene.take(former, 5)
        async with backend.subscribe([topic], group="group", start="earliest") as subscription:
            member: Any = subscription
            taken = await scene.take(member, 5)
            await backend.publish(scene.new_records(topic, 5, start=5))
            taken += await scene.take(member, 5)
            assert [d.attempt for d in taken] == [2] * 5 + [1] * 5
            assert member.lost_deliveries(taken) == ()
            await client.flushall()
            if found == "by the upkeep":
                await scene.until(lambda: member.lost_deliveries(taken), "they count as its own")
            else:
                await member.begin(taken[:2])
            assert member.lost_deliveries(taken) == list(range(10))


async def test_scripts_that_were_flushed(start_redis: StartRedis) -> None:
    server = start_redis()
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 30)
    async with (
        redis.open(server.url, SETTINGS) as backend,
        scene.asking(server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(records)
        for _ in range(3):
            await client.script_flush()
            await member.complete(scene.answers(await scene.take(member, 10), to))
        assert await scene.ids(client, to) == scene.answered(records)


async def test_full_memory_is_backpressure(start_redis: StartRedis) -> None:
    """Publishers wait, completions fail and change nothing, and both pass once there is room."""
    server = start_redis()
    topic, to = scene.new_topic(), scene.new_topic()
    patient = redis.Settings(lease=1.0, publish_timeout=scene.PATIENCE)
    hasty = redis.Settings(lease=1.0, publish_timeout=0.2)
    records, late = scene.new_records(topic, 10), scene.new_records(topic, 1_500, start=10)
    async with (
        redis.open(server.url, patient) as backend,
        redis.open(server.url, hasty) as impatient,
        scene.asking(server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(records)
        done = scene.answers(await scene.take(member, 10), to)
        await client.config_set("maxmemory", "1")
        with pytest.raises(FullError, match=r"no memory left.*retention"):
            await impatient.publish(scene.new_records(topic, 3, start=5_000))
        with pytest.raises(FullError):
            await impatient.publish(scene.new_records(topic, 1, start=5_000))
        with pytest.raises(UnavailableError, match="no memory left"):
            await member.complete(done)
        assert await client.xlen(to) == 0
        assert (await client.xpending(topic, "group"))["pending"] == 10
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(backend.publish, late)
            await anyio.sleep(0.3)
            assert await client.xlen(topic) == len(records)
            await client.config_set("maxmemory", "0")
        await member.complete(done)
        await member.complete(scene.answers(await scene.take(member, len(late)), to))
        assert await scene.ids(client, topic) == scene.once(r.id for r in [*records, *late])
        assert await scene.ids(client, to) == scene.answered([*records, *late])


async def test_acks_alone_pass_where_memory_is_full(start_redis: StartRedis) -> None:
    """Acks free memory, and add nothing."""
    server = start_redis()
    topic = scene.new_topic()
    async with (
        redis.open(server.url, SETTINGS) as backend,
        scene.asking(server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(scene.new_records(topic, 10))
        done = [eventml.backends.base.Completion(d) for d in await scene.take(member, 10)]
        await client.config_set("maxmemory", "1")
        await member.complete(done)
        assert (await client.xpending(topic, "group"))["pending"] == 0


async def test_a_server_that_hangs(start_redis: StartRedis) -> None:
    """Requests time out and are retried; nothing is lost or duplicated."""
    server = start_redis()
    topic, to = scene.new_topic(), scene.new_topic()
    short = redis.Settings(lease=1.0, timeout=0.3)
    records = scene.new_records(topic, 100)
    async with (
        redis.open(server.url, short) as backend,
        scene.asking(server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(records)
        done = scene.answers(await scene.take(member, 50), to)
        server.process.send(signal.SIGSTOP)
        with pytest.raises(UnavailableError):
            await member.complete(done)
        with pytest.raises(UnavailableError):  # noqa: PT012 - what was read ahead comes first
            while True:
                done += scene.answers(await member.receive(50), to)
        server.process.send(signal.SIGCONT)
        await scene.complete(member, done)
        rest = [record for record in records if record.id not in {c.delivery.record.id for c in done}]
        await scene.complete(member, scene.answers(await scene.take(member, len(rest)), to))
        assert await scene.ids(client, to) == scene.answered(records)


async def test_a_key_that_is_no_stream(redis_server: RedisServer) -> None:
    """The error says so; an output that cannot be added is refused, and its input kept."""
    topic, other, to = scene.new_topic(), scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 4)
    async with redis.open(redis_server.url, SETTINGS) as backend, scene.asking(redis_server.url) as client:
        await client.set(other, "a string")
        with pytest.raises(BackendError, match=f"{other}.*no stream"):
            await backend.publish([*scene.new_records(other, 1), *records])
        assert await client.xlen(topic) == 4
        with pytest.raises(BackendError, match=f"{other}.*no stream"):
            async with backend.subscribe([other], group="group", start="earliest"):
                pass
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            taken = await scene.take(member, 4)
            done = scene.answers(taken, to)
            done[2] = scene.answers(taken[2:3], other)[0]
            with pytest.raises(BackendError, match=r"r2.*WRONGTYPE") as caught:
                await member.complete(done)
            assert list(caught.value.failed) == [2]  # type: ignore[attr-defined]  # it is a PublishError
            assert (await client.xpending(topic, "group"))["pending"] == 1
        assert await scene.ids(client, to) == scene.answered([records[0], records[1], records[3]])
        await client.delete(other)
