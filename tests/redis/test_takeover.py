"""A member takes the place of one of its name whose process has died."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from eventml.backends import redis
from eventml.backends.base import CountsAttempts
from tests.redis import scene

if TYPE_CHECKING:
    from backends.redis.server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

SETTINGS = redis.Settings(lease=600.0)


async def test_commands_of_the_dead_process_that_arrive_late_change_nothing(
    redis_server: RedisServer,
) -> None:
    """They were sent before it died, and the server reads them after its successor has begun."""
    url, topic, to = redis_server.url, scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 20)
    async with (
        redis.open(url, SETTINGS) as dead,
        redis.open(url, SETTINGS) as backend,
        scene.asking(url) as client,
    ):
        dead.name_members("one")
        backend.name_members("one")
        async with dead.subscribe([topic], group="group", start="earliest") as late:
            await dead.publish(records)
            lost = await scene.take(late, 20)
            async with backend.subscribe([topic], group="group", start="earliest") as successor:
                taken = await scene.take(successor, 20)
                assert {delivery.attempt for delivery in taken} == {2}
                await scene.complete(late, scene.answers(lost[:10], to))
                assert isinstance(late, CountsAttempts)
                await late.begin(lost[10:])
                await scene.complete(successor, scene.answers(taken, to))
                assert await successor.lag() == 0
        assert await scene.ids(client, to) == scene.answered(records)


async def test_members_of_one_process_have_consumers_of_their_own(redis_server: RedisServer) -> None:
    topics = [scene.new_topic(), scene.new_topic()]
    async with redis.open(redis_server.url, SETTINGS) as backend, AsyncExitStack() as stack:
        backend.name_members("one")
        members: list[Any] = [
            await stack.enter_async_context(backend.subscribe(some, group="group", start="earliest"))
            for some in (topics, topics[:1], topics[1:], topics)
        ]
        for topic in topics:
            names = [member._consumers[topic].name for member in members if topic in member._consumers]
            assert len(names) == len(set(names)) == 3
