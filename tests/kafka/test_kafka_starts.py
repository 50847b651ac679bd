"""Starting at a time, where timestamps are those of producers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from confluent_kafka import Producer

from eventml.backends import kafka
from tests.kafka.conftest import new_topic

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


async def test_each_partition_begins_with_its_first_record_of_the_time_or_later(
    kafka_broker: KafkaCluster,
) -> None:
    """A clock that goes back does not hide what is behind. A partition of older records gives nothing."""
    topic = await new_topic(kafka_broker, partitions=3)
    times = {0: [1_000, 5_000, 2_000, 6_000], 1: [1_000, 2_000], 2: [4_000]}
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    for partition, milliseconds in times.items():
        for timestamp in milliseconds:
            producer.produce(topic, b"1", partition=partition, timestamp=timestamp)
    await anyio.to_thread.run_sync(producer.flush)
    async with (
        kafka.open(kafka_broker.url, kafka.Settings()) as backend,
        backend.subscribe([topic], group=None, start=4.0) as reader,
        backend.subscribe([topic], group=None, start="earliest") as ending,
    ):
        bounded: Any = reader
        await bounded.stop_at("latest")
        assert await timestamps(reader) == {0: [5.0, 2.0, 6.0], 2: [4.0]}
        bounded = ending
        await bounded.stop_at(4.0)
        assert await timestamps(ending) == {0: [1.0], 1: [1.0, 2.0]}


async def timestamps(reader: Any) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    with anyio.fail_after(20):
        while deliveries := await reader.receive(100):
            for delivery in deliveries:
                found.setdefault(delivery.partition, []).append(delivery.timestamp)
    return found
