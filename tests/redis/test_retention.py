"""Keeping topics short: unfinished entries stay, and entries removed unread are counted."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventml.backends import redis
from eventml.backends.base import Completion
from tests.redis import scene

if TYPE_CHECKING:
    from backends.redis.server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

NODE = 100  # entries that a stream keeps or drops together


async def length_below(client: Any, topic: str, bound: int) -> bool:
    return bool(await client.xlen(topic) < bound)


async def test_by_default_everything_is_kept(redis_server: RedisServer) -> None:
    topic = scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings(lease=0.1)) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(scene.new_records(topic, 1_000))
        await member.complete([Completion(d) for d in await scene.take(member, 1_000)])
        await scene.until(lambda: _asked_again(member), "lag")
        assert await client.xlen(topic) == 1_000


async def _asked_again(member: Any) -> bool:
    return bool(await member.lag() == 0)


async def test_what_a_group_has_not_finished_is_kept(redis_server: RedisServer) -> None:
    """The slowest group decides, by its pending and its unread entries."""
    topic = scene.new_topic()
    settings = redis.Settings(lease=0.3, retention=0.0)
    async with (
        redis.open(redis_server.url, settings) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group="fast", start="earliest") as fast,
        backend.subscribe([topic], group="slow", start="earliest") as slow,
    ):
        records = scene.new_records(topic, 1_000)
        await backend.publish(records)
        await fast.complete([Completion(d) for d in await scene.take(fast, 1_000)])
        some = await scene.take(slow, 500)
        await slow.complete([Completion(d) for d in some[:250]])
        await scene.until(lambda: length_below(client, topic, 751 + NODE), "nothing was removed")
        left = [entry_id.decode() for entry_id, _ in await client.xrange(topic)]
        assert left[-750:] == [d.offset for d in some[250:]] + left[-500:]
        await slow.complete([Completion(d) for d in some[250:]])
        await slow.complete([Completion(d) for d in await scene.take(slow, 500)])
        await scene.until(lambda: length_below(client, topic, 2 * NODE), "the rest was not removed")
        assert await slow.lag() == await fast.lag() == 0
        await backend.publish(scene.new_records(topic, 10, start=1_000))
        assert len(await scene.take(slow, 10)) == len(await scene.take(fast, 10)) == 10


async def test_finished_entries_are_kept_for_the_retention_time(redis_server: RedisServer) -> None:
    topic = scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings(lease=0.1, retention=3_600.0)) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        long_ago = await client.xadd(topic, {"data": b"1"}, id="1000-1")
        for number in range(3 * NODE):
            await client.xadd(topic, {"data": b"1"}, id=f"1000-{2 + number}")
        await backend.publish(scene.new_records(topic, 500))
        await member.complete([Completion(d) for d in await scene.take(member, 501 + 3 * NODE)])
        await scene.until(lambda: length_below(client, topic, 501 + NODE), "what is old was not removed")
        assert await client.xlen(topic) >= 500
        assert await client.xrange(topic, long_ago, long_ago) == []


async def test_a_topic_that_no_group_reads_is_kept(redis_server: RedisServer) -> None:
    topic, other = scene.new_topic(), scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings(lease=0.1, retention=0.0)) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(scene.new_records(topic, 500))
        await member.complete(scene.answers(await scene.take(member, 500), other))
        await scene.until(lambda: length_below(client, topic, 2 * NODE), "nothing was removed")
        assert await client.xlen(other) == 500


async def test_a_cap_counts_unread_entries(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    topic = scene.new_topic()
    caplog.set_level(logging.WARNING)
    async with (
        redis.open(redis_server.url, redis.Settings(max_length=300)) as backend,
        scene.asking(redis_server.url) as client,
    ):
        await backend.publish(scene.new_records(topic, 250))
        await client.xgroup_create(topic, "reads", "0")
        await client.xgroup_create(topic, "does not", "0")
        await client.xreadgroup("reads", "somebody", {topic: ">"}, count=250)
        assert caplog.text == ""
        await backend.publish(scene.new_records(topic, 350, start=250))
        assert await scene.ids(client, topic) == scene.once(f"r{n}" for n in range(300, 600))
        # Of 600 records the first 300 were cut. One group had had 250 of those, the other none.
        assert scene.logged(caplog, "had not read") == 50 + 300
        assert "max_length" in caplog.text
        assert topic in caplog.text


async def test_a_cap_holds_for_outputs_and_deliveries_in_flight_complete(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings()) as producer,
        redis.open(redis_server.url, redis.Settings(max_length=300)) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await producer.publish(scene.new_records(topic, 700))
        taken = await scene.take(member, 700)
        await client.xtrim(topic, maxlen=0, approximate=False)
        await member.complete(scene.answers(taken, to))
        assert await scene.ids(client, to) == scene.once(f"r{n}/answer" for n in range(400, 700))
        assert caplog.text == ""  # nobody reads the outputs, so nobody lost them


async def test_a_cap_of_one_keeps_the_last(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    topic = scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings(max_length=1)) as backend,
        scene.asking(redis_server.url) as client,
    ):
        for number in range(5):
            await backend.publish(scene.new_records(topic, 1, start=number))
        await backend.publish(scene.new_records(topic, 2_500, start=5))
        assert await scene.ids(client, topic) == scene.once(["r2504"])
        assert caplog.text == ""


async def test_trim_removes_old_entries_unread_or_not(redis_server: RedisServer) -> None:
    """As for reply topics, which no group reads; a topic that is not trimmed any more expires."""
    topic = scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group=None, start="latest"),
    ):
        await backend.publish(scene.new_records(topic, 250))
        await backend.trim(topic, older_than=60.0)
        assert await client.xlen(topic) == 250
        assert 0 < await client.ttl(topic) <= 3600
        await anyio.sleep(0.01)
        await backend.publish(scene.new_records(topic, 5))
        oldest = int((await client.xrevrange(topic, count=1))[0][0].partition(b"-")[0])
        await backend.trim(topic, older_than=time.time() - oldest / 1000 + 0.001)
        assert await client.xlen(topic) == 5
