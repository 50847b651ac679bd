"""What a Kafka broker and a worker without a model need for an event, on this machine; one node, one copy."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from backends.kafka.cluster import KafkaCluster
from benchmarks import kafka_cases as ways
from benchmarks.measuring import no_op, rides
from benchmarks.simulation_measuring import thread_seconds
from eventml.backends import kafka as backend
from eventml.backends.base import NewTopic

if TYPE_CHECKING:
    from collections.abc import Iterator


class KafkaSample(msgspec.Struct, frozen=True):
    """One run; CPU seconds and bytes are those of an event.

    Attributes:
        worker: CPU seconds of the worker's process; `broker` those to store and return the event, and to
            store the prediction.
        stored: Bytes of the log, for both; `traffic` to and from the broker, so with the event once more.
    """

    rate: float
    worker: float
    broker: float
    stored: float
    traffic: float


def measure_kafka(events: int, rounds: int) -> Iterator[KafkaSample]:
    """Publish events twice, the first time to warm up, then handle all of them in each round."""
    with KafkaCluster(settings={"group.initial.rebalance.delay.ms": "0"}) as cluster:
        asyncio.run(_create_topics(cluster.url))
        pid = cluster.nodes[0].process.pid

        def cpu() -> float:
            return sum(thread_seconds(pid).values())

        def stored(topic: str) -> int:
            return sum(path.stat().st_size for path in cluster.directory.rglob(f"{topic}-*/*.log"))

        ways.fill(cluster.bootstrap, rides(events))
        before, total = cpu(), 2 * events
        ways.fill(cluster.bootstrap, rides(events))
        publish, event = (cpu() - before) / events, stored(ways.SOURCE) / total
        for _ in range(rounds + 1):
            before, results, process = cpu(), stored(ways.TARGET), time.process_time()
            rate = ways.with_eventml(cluster.bootstrap, total, no_op)
            prediction = (stored(ways.TARGET) - results) / total
            yield KafkaSample(
                rate=rate,
                worker=(time.process_time() - process) / total,
                broker=publish + (cpu() - before) / total,
                stored=event + prediction,
                traffic=2 * event + prediction,
            )


async def _create_topics(url: str) -> None:
    async with backend.open(url, backend.Settings()) as broker:
        await broker.create_topics([NewTopic(name=n, partitions=4) for n in (ways.SOURCE, ways.TARGET)])
