"""Members, workers and brokers that come and go under load: a minute by `make chaos`, else a few seconds."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections import Counter, defaultdict
from contextlib import suppress
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import pytest
from aiokafka import AIOKafkaConsumer

from eventml.errors import UnavailableError
from eventml.records import Record
from tests.kafka.conftest import connected, everything, lag, new_topic, records, until_finished, working

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster
    from eventml.records import Delivery
    from tests.kafka.conftest import StartWorker, WorkerProcess

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.chaos,
    pytest.mark.timeout(900),
]

SECONDS: Final = float(os.environ.get("CHAOS_SECONDS", "6"))
LONG: Final = SECONDS >= 60
KILLS: Final = 100 if LONG else 6
SLOTS: Final = 4 if LONG else 2
SETTINGS: Final = {
    "delivery": "exactly_once",
    "session_timeout": 1.5,
    "heartbeat_interval": 0.2,
    "rebalance_timeout": 4.0,
    "drain": 1.0,
}


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_members_join_and_leave_all_the_time(kafka_broker: KafkaCluster, delivery: str) -> None:
    topic, to, group = await new_topic(kafka_broker, 8), await new_topic(kafka_broker, 8), token_hex(4)
    published, rebalances, over = 0, 0, time.monotonic() + SECONDS
    handled: defaultdict[bytes | None, list[int]] = defaultdict(list)

    def note(delivery: Delivery) -> None:
        handled[delivery.record.key].append(int(delivery.record.value))

    async def join_and_leave(stay: random.Random) -> None:
        nonlocal rebalances
        while time.monotonic() < over:
            # On a busy machine a member may not get its partitions in time: it tries again.
            with suppress(UnavailableError):
                async with (
                    connected(kafka_broker, delivery=delivery) as backend,
                    working(backend, topic, to, group, note),
                ):
                    rebalances += 2
                    await asyncio.sleep(stay.uniform(1, 2) if SECONDS < 20 else stay.uniform(2, 6))

    async with connected(kafka_broker) as backend:

        async def publish() -> None:
            nonlocal published
            while time.monotonic() < over:
                await backend.publish(records(topic, range(published, published + 100)))
                published += 100
                await asyncio.sleep(0.05)

        await asyncio.gather(publish(), *(join_and_leave(random.Random(seed)) for seed in range(3)))
        async with connected(kafka_broker, delivery=delivery) as last, working(last, topic, to, group, note):
            await until_finished(backend, topic, group)
        made = Counter(d.record.id for d in await everything(backend, to, published))
    assert rebalances >= SECONDS / 3
    assert set(made) == {f"id-{n}/made" for n in range(published)}
    if delivery == "exactly_once":
        assert set(made.values()) == {1}
    for key, numbers in handled.items():
        first = list(dict.fromkeys(numbers))
        assert first == sorted(first), f"key {key!r} was handled out of order"


async def test_a_rolling_restart_of_the_brokers_loses_nothing(kafka_cluster: KafkaCluster) -> None:
    topic = await new_topic(kafka_cluster, 6, replication=3)
    to = await new_topic(kafka_cluster, 6, replication=3)
    group, stop = token_hex(4), asyncio.Event()
    acknowledged: list[str] = []
    handled: list[float] = []

    async with connected(kafka_cluster) as backend, connected(kafka_cluster) as producer:

        async def publish() -> None:
            start = 0
            while not stop.is_set():
                some = records(topic, range(start, start + 20))
                start += 20
                try:
                    await producer.publish(some)
                except UnavailableError:
                    continue
                acknowledged.extend(record.id for record in some)
                await asyncio.sleep(0.02)

        async with working(backend, topic, to, group, lambda _: handled.append(time.monotonic())):
            publishing = asyncio.create_task(publish())
            await asyncio.sleep(1)
            for node in kafka_cluster.nodes if LONG else kafka_cluster.nodes[:1]:
                await asyncio.to_thread(node.stop)
                await asyncio.sleep(1)
                await asyncio.to_thread(kafka_cluster.start)
                await asyncio.to_thread(kafka_cluster.wait_until_in_sync)
                await asyncio.sleep(1)
            stop.set()
            await publishing
            await until_finished(backend, topic, group)
        made = {d.record.id for d in await everything(backend, to, len(acknowledged))}
    gaps = [later - earlier for earlier, later in itertools.pairwise(handled)]
    assert len(acknowledged) > 500
    assert {f"{id_}/made" for id_ in acknowledged} <= made
    assert max(gaps) < 30, "consumption was not back within 30 s"


async def test_workers_killed_before_the_commit_give_one_output_for_one_input(
    own_broker: KafkaCluster, start_worker: StartWorker
) -> None:
    cluster = own_broker
    topic, to, group = await new_topic(cluster), await new_topic(cluster), token_hex(4)
    killed = published = 0
    over = False

    def work(**choices: Any) -> WorkerProcess:
        return start_worker(cluster, topic=topic, to=to, group=group, settings=SETTINGS, limit=10, **choices)

    async def keep_one_running() -> None:
        nonlocal killed
        while not over:
            # The first ones certainly die after they have written records, and before they commit.
            worker = work(die=0.5, certainly=not killed)
            while worker.process.poll() is None and not over:
                await asyncio.sleep(0.05)
            killed += worker.process.poll() == -signal.SIGKILL
            worker.kill()

    async with connected(cluster) as backend:

        async def publish() -> None:
            nonlocal published, over
            while not over:
                ids = range(published, published + 40)
                await backend.publish([Record(topic, b"%d" % n, b"%d" % (n % 40), f"id-{n}") for n in ids])
                published += 40
                await asyncio.sleep(0.1)
                # By chance all of them may have died before they completed anything.
                some = killed >= KILLS and await lag(backend, topic, group) < published
                over = some or killed >= 5 * KILLS

        await asyncio.gather(publish(), *(keep_one_running() for _ in range(SLOTS)))
        left = await lag(backend, topic, group)
        work()
        await until_finished(backend, topic, group)
        made = Counter(d.record.id for d in await everything(backend, to, published))
    written = await uncommitted(cluster.bootstrap, to)
    assert killed >= KILLS
    assert 0 < left < published, "the killed workers completed some records, and not all"
    assert written > published, "no worker was killed between producing and committing"
    assert made == Counter({f"id-{n}/made": 1 for n in range(published)})


async def uncommitted(brokers: str, topic: str) -> int:
    """Count the records of a topic, those of aborted transactions included."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest")
    found = 0
    async with consumer:
        while some := await consumer.getmany(timeout_ms=2_000):
            found += sum(map(len, some.values()))
    return found
