"""Sentinels and a failover: the new master is found, and work goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from redis.exceptions import RedisError

import eventml
from eventml.backends import redis
from eventml.errors import UnavailableError
from tests.redis import scene
from tests.redis.sentinel import sentinel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import StartRedis

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

SETTINGS = redis.Settings(sentinel="main", lease=1.0, timeout=1.0, publish_timeout=scene.PATIENCE)


async def _knows_a_replica(address: str) -> bool:
    try:
        async with scene.asking(f"redis://{address}") as client:
            return bool(await client.execute_command("SENTINEL REPLICAS", "main"))
    except RedisError:
        return False


async def test_a_failover_is_followed(start_redis: StartRedis, tmp_path: Path) -> None:
    master = start_redis(settings={"repl-diskless-sync-delay": "0"})  # else a replica waits 5 s for its data
    replica = start_redis(settings={"replicaof": f"127.0.0.1 {master.port}"})
    topic, to = scene.new_topic(), scene.new_topic()
    before, after = scene.new_records(topic, 200), scene.new_records(topic, 200, start=200)
    bus = eventml.Bus("failover")

    def answer(batch: list[int]) -> list[dict[str, int]]:
        return [{"of": number} for number in batch]

    bus.predictor(topic, to=to, group="group", name="answer", max_batch=50)(answer)
    with sentinel(master, tmp_path) as address:
        await scene.until(lambda: _knows_a_replica(address), "the Sentinel knows no replica")
        url = f"redis://127.0.0.1:1,{address}"  # the first is down, and passed over
        async with redis.open(url, SETTINGS) as backend, scene.working(bus, url, SETTINGS):
            await backend.publish(before)
            await scene.until(lambda: _finished(backend, topic), "not all were finished")
            async with scene.asking(master.url) as client:
                await client.set("last", "write")  # WAIT waits for the writes of its own connection
                await scene.until(lambda: client.wait(1, 1_000), "the replica has not all")
            master.kill()
            await anyio.sleep(0.1)  # a write before this is noticed would end in the unknown
            with anyio.fail_after(scene.PATIENCE):
                await backend.publish(after)
            await scene.until(lambda: _finished(backend, topic), "not all were finished")
        async with scene.asking(replica.url) as client:
            assert await scene.ids(client, to) == scene.answered([*before, *after])
            assert (await client.info("replication"))["role"] == "master"


async def _finished(backend: redis.RedisBackend, topic: str) -> bool:
    try:
        return await backend.lag(topic, group="group") == {0: 0}
    except UnavailableError:
        return False


async def test_a_master_that_nobody_watches(start_redis: StartRedis, tmp_path: Path) -> None:
    master = start_redis()
    with sentinel(master, tmp_path) as address:
        await scene.until(lambda: _answers(address), "the Sentinel does not answer")
        with pytest.raises(UnavailableError, match=r"no Sentinel .* names a master 'other'"):
            async with redis.open(f"redis://{address}", redis.Settings(sentinel="other")):
                pass


async def _answers(address: str) -> bool:
    try:
        async with scene.asking(f"redis://{address}") as client:
            return bool(await client.ping())
    except RedisError:
        return False
