"""Requests while the server restarts, or where the worker may not write replies."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import eventml
from eventml import RequestTimeoutError
from eventml.backends import redis
from eventml.errors import BackendError, PublishError
from eventml.runtime.failures.dead_letters import dead_letter_topic
from eventml.runtime.replies import reply_topic
from tests.redis import scene
from tests.redis.users import set_user, url_of

if TYPE_CHECKING:
    from tests.brokers import StartRedis

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


def doubling(topic: str, to: str) -> eventml.Bus:
    bus = eventml.Bus("requests")

    def double(batch: list[int]) -> list[dict[str, int]]:
        return [{"is": 2 * number} for number in batch]

    bus.predictor(topic, to=to, group="group", name="double")(double)
    return bus


async def test_the_server_comes_back(start_redis: StartRedis) -> None:
    """The reader of the replies continues: requests made afterwards are answered."""
    server = start_redis(appendfsync="always")
    topic = scene.new_topic()
    bus = doubling(topic, scene.new_topic())
    web = eventml.Bus("web")
    async with (
        scene.working(bus, server.url, redis.Settings(lease=1.0)),
        redis.open(server.url, redis.Settings()) as backend,
        web.open(backend),
    ):
        assert await web.request(topic, 1, timeout=scene.PATIENCE) == {"is": 2}
        server.kill()
        async with anyio.create_task_group() as tasks:
            answers: list[Any] = []

            async def ask() -> None:
                answers.append(await web.request(topic, 2, timeout=scene.PATIENCE))

            tasks.start_soon(ask)
            await anyio.sleep(0.3)
            server.start()
        assert answers == [{"is": 4}]


async def test_a_worker_that_may_not_reply_continues(start_redis: StartRedis) -> None:
    server = start_redis()
    topic, to = scene.new_topic(), scene.new_topic()
    allowed = [topic, to, dead_letter_topic(topic, "group")]
    async with scene.asking(server.url) as client:
        await client.acl_setuser(
            "narrow", enabled=True, passwords=["+pass"], keys=allowed, commands=["+@all"]
        )
    bus, web = doubling(topic, to), eventml.Bus("web")
    narrow = server.url.replace("://", "://narrow:pass@")
    async with (
        scene.working(bus, narrow, redis.Settings()) as worker,
        redis.open(server.url, redis.Settings()) as backend,
        web.open(backend),
        scene.asking(server.url) as client,
    ):
        with pytest.raises(RequestTimeoutError):
            await web.request(topic, 1, timeout=1.0)
        with contextlib.suppress(RequestTimeoutError):
            await web.request(topic, 2, timeout=0.1)
        with anyio.fail_after(scene.PATIENCE):
            while worker.stats["double"].completed < 2:
                await anyio.sleep(0.01)
        assert await client.xlen(to) == 2
        assert await client.xlen(reply_topic(topic)) == 0
        assert worker.stats["double"].dead_letters == 0


async def _expires(client: Any, key: str) -> bool:
    return bool(await client.ttl(key) > 0)


async def test_a_requester_and_a_worker_need_no_more_than_the_docs_say(start_redis: StartRedis) -> None:
    """And such a requester may read and write nothing else."""
    server = start_redis()
    topic, to = scene.new_topic(), scene.new_topic()
    bus, web = doubling(topic, to), eventml.Bus("web")
    async with scene.asking(server.url) as client:
        rights = ("+xread", "+xrevrange")
        keys = (topic, reply_topic(topic))
        await client.execute_command(*set_user("requester", *rights, like="producer", keys=keys))
        await client.execute_command(*set_user("consumer", keys=(f"{topic}*", to)))
        async with (
            scene.working(bus, url_of(server.url, "consumer"), redis.Settings(retention=0.0)),
            redis.open(url_of(server.url, "requester"), redis.Settings()) as backend,
            web.open(backend),
        ):
            assert await web.request(topic, 1, timeout=scene.PATIENCE) == {"is": 2}
            await scene.until(partial(_expires, client, reply_topic(topic)), "the replies are not trimmed")
            with pytest.raises(PublishError, match="does not allow this user"):
                await backend.publish(scene.new_records(to, 1))
            with pytest.raises(BackendError, match="does not allow this user"):
                async with backend.subscribe([to], group=None, start="earliest") as reader:
                    await reader.receive(1)
