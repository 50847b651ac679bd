"""Exactly once: processes killed between producing and committing, a hundred times."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer

from eventml.records import Record
from tests.kafka.conftest import connected, everything, lag, new_topic, until_finished

if TYPE_CHECKING:
    from tests.brokers import StartKafka
    from tests.kafka.conftest import StartWorker, WorkerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.kafka, pytest.mark.slow]

KILLS, SLOTS = 100, 4
SETTINGS = {
    "delivery": "exactly_once",
    "session_timeout": 1.5,
    "heartbeat_interval": 0.2,
    "rebalance_timeout": 4.0,
    "drain": 1.0,
}


@pytest.mark.timeout(900)
async def test_a_hundred_kills_before_the_commit_double_nothing(
    start_kafka: StartKafka, start_worker: StartWorker
) -> None:
    cluster = start_kafka(settings={"group.min.session.timeout.ms": "500"})
    topic, to, group = await new_topic(cluster), await new_topic(cluster), token_hex(4)
    killed = published = 0

    def work(**choices: Any) -> WorkerProcess:
        return start_worker(cluster, topic=topic, to=to, group=group, settings=SETTINGS, limit=10, **choices)

    async def keep_one_running() -> None:
        nonlocal killed
        while killed < KILLS:
            worker = work(die=0.5)
            while worker.process.poll() is None and killed < KILLS:
                await asyncio.sleep(0.05)
            killed += worker.process.poll() == -signal.SIGKILL
            worker.kill()

    async with connected(cluster) as backend:

        async def publish() -> None:
            nonlocal published
            while killed < KILLS:
                ids = range(published, published + 40)
                await backend.publish([Record(topic, b"%d" % n, b"%d" % (n % 40), f"id-{n}") for n in ids])
                published += 40
                await asyncio.sleep(0.1)

        await asyncio.gather(publish(), *(keep_one_running() for _ in range(SLOTS)))
        left = await lag(backend, topic, group)
        work()
        await until_finished(backend, topic, group)
        made = Counter(d.record.id for d in await everything(backend, to))
    written = await uncommitted(cluster.bootstrap, to)
    assert killed >= KILLS
    assert 0 < left < published, "the killed got something done, and not everything"
    assert written > published, "no kill came between producing and committing"
    assert made == Counter({f"id-{n}/made": 1 for n in range(published)})


async def uncommitted(brokers: str, topic: str) -> int:
    """How many records a topic holds, those of aborted transactions included."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest")
    found = 0
    async with consumer:
        while some := await consumer.getmany(timeout_ms=2_000):
            found += sum(map(len, some.values()))
    return found
