"""How far behind a group is: the number, or None."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventml.backends import redis
from eventml.backends.base import Completion
from tests.redis import scene

if TYPE_CHECKING:
    from backends.redis.server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_lag_where_entries_were_deleted(redis_server: RedisServer) -> None:
    """The server keeps no count then, so the entries are counted; the lag is unknown if they are too many."""
    topic = scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(scene.new_records(topic, 1_000))
        taken = await scene.take(member, 10)
        await member.complete([Completion(d) for d in taken[:4]])
        entries = [entry for entry, _ in await client.xrange(topic)]
        await client.xdel(topic, *entries[500:520])
        assert await backend.lag(topic, group="group") == {0: 6 + 970}
        await backend.publish(scene.new_records(topic, 11_000))
        await client.xdel(topic, entries[600])
        assert await backend.lag(topic, group="group") is None
        assert await member.lag() is None


async def test_lag_where_unread_entries_were_trimmed(redis_server: RedisServer) -> None:
    topic = scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
    ):
        await backend.publish(scene.new_records(topic, 1_000))
        await client.xgroup_create(topic, "group", "0")
        await client.xreadgroup("group", "somebody", {topic: ">"}, count=100)
        await client.xtrim(topic, maxlen=300, approximate=False)
        assert await backend.lag(topic, group="group") == {0: 100 + 300}


async def test_lag_of_a_missing_topic_or_group(redis_server: RedisServer) -> None:
    topic = scene.new_topic()
    async with redis.open(redis_server.url, redis.Settings()) as backend:
        assert await backend.lag(topic, group="group") is None
        await backend.publish(scene.new_records(topic, 1))
        assert await backend.lag(topic, group="group") is None
