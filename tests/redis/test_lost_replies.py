"""Replies that are lost: the server has executed the command, and the client does not know."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import anyio
import pytest

from eventml.backends import redis
from eventml.backends.redis.completion import COMPLETE
from eventml.errors import UnavailableError
from tests.redis import scene
from tests.redis.proxy import proxied

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.redis.server import RedisServer
    from eventml.records import Record

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

TIMES = 100
SETTINGS = redis.Settings(lease=2.0, publish_timeout=1.0)


def sometimes(command: bytes) -> Callable[[bytes], bool]:
    """Picks two of three requests that hold such a command."""
    random = Random(4)
    return lambda data: command in data and random.random() < 2 / 3


async def test_after_xadd(redis_server: RedisServer) -> None:
    """No record is written twice, and each call with an unknown outcome raises."""
    topic = scene.new_topic()
    unknown = returned = 0
    async with (
        proxied(redis_server.url) as proxy,
        redis.open(proxy.url, SETTINGS) as backend,
        scene.asking(redis_server.url) as client,
    ):
        proxy.swallow = sometimes(b"XADD")
        records: list[Record] = []
        while proxy.swallowed < TIMES:
            some = scene.new_records(topic, 1 + returned % 3, start=len(records))
            records += some
            try:
                await backend.publish(some)
            except UnavailableError:
                unknown += 1
            else:
                returned += 1
        assert unknown == proxy.swallowed
        assert returned > TIMES / 4
        # The server did carry each out, so each is there: once.
        assert await scene.ids(client, topic) == scene.once(record.id for record in records)


async def test_after_xreadgroup(redis_server: RedisServer) -> None:
    """Entries whose reply was lost are delivered again, and have one output each."""
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 1_500)
    async with (
        proxied(redis_server.url) as proxy,
        redis.open(redis_server.url, SETTINGS) as direct,
        redis.open(proxy.url, SETTINGS) as backend,
        scene.asking(redis_server.url) as client,
    ):
        await direct.publish(records)
        proxy.swallow = sometimes(b"XREADGROUP")
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            answered = 0
            with anyio.fail_after(3 * scene.PATIENCE):
                while answered < len(records):
                    deliveries = await scene.receive(member, 5)
                    assert {delivery.attempt for delivery in deliveries} == {1}, "no worker has died"
                    answered += len(deliveries)
                    await scene.complete(member, scene.answers(deliveries, to))
            assert await member.lag() == 0
        assert proxy.swallowed >= TIMES
        assert answered == len(records)
        assert await scene.ids(client, to) == scene.answered(records)


async def test_after_the_completing_script(redis_server: RedisServer) -> None:
    """Repeating a completion that was executed adds nothing."""
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 1_000)
    async with (
        proxied(redis_server.url) as proxy,
        redis.open(proxy.url, SETTINGS) as backend,
        scene.asking(redis_server.url) as client,
    ):
        await backend.publish(records)
        proxy.swallow = sometimes(COMPLETE.digest.encode())
        failures = 0
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            for _ in range(0, len(records), 10):
                failures += await scene.complete(member, scene.answers(await scene.take(member, 10), to))
            assert await member.lag() == 0
        assert failures == proxy.swallowed >= TIMES
        assert await scene.ids(client, to) == scene.answered(records)


async def test_with_everything_at_once(redis_server: RedisServer) -> None:
    """Connections that are cut at random moments, under load."""
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 3_000)
    random = Random(5)
    async with (
        proxied(redis_server.url) as proxy,
        redis.open(redis_server.url, SETTINGS) as direct,
        redis.open(proxy.url, SETTINGS) as backend,
        scene.asking(redis_server.url) as client,
        anyio.create_task_group() as tasks,
    ):

        async def cut() -> None:
            while True:
                await anyio.sleep(random.random() * 0.03)
                proxy.cut()

        await direct.publish(records)
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            tasks.start_soon(cut)
            answered = 0
            with anyio.fail_after(3 * scene.PATIENCE):
                while answered < len(records):
                    deliveries = await scene.receive(member, 7)
                    answered += len(deliveries)
                    await scene.complete(member, scene.answers(deliveries, to))
            tasks.cancel_scope.cancel()
        assert answered == len(records)
        assert await scene.ids(client, to) == scene.answered(records)
        assert await direct.lag(topic, group="group") == {0: 0}
