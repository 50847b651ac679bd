"""The clock of a publisher jumped back (a virtual machine was resumed, or NTP set it): later events of a
partition have earlier timestamps, and readers of a topic still get them in order.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.kafka.reader import Reader
from eventml.records import Delivery, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.anyio


async def read(partitions: Sequence[Sequence[float]]) -> Sequence[Delivery]:
    """Read one fetch of records with these timestamps, partition by partition."""
    fetched = {
        TopicPartition("t", p): [
            Delivery(Record("t", b""), p, offset, timestamp) for offset, timestamp in enumerate(timestamps)
        ]
        for p, timestamps in enumerate(partitions)
        if timestamps
    }

    async def getmany(**_: Any) -> dict[TopicPartition, list[list[Delivery]]]:
        return {partition: [fetched.pop(partition)] for partition in list(fetched)}

    def partitions_for_topic(_: str) -> set[int]:
        return set(range(len(partitions)))

    consumer = SimpleNamespace(getmany=getmany, partitions_for_topic=partitions_for_topic)
    clients: Any = SimpleNamespace(consumer=lambda *_: consumer)
    publisher: Any = None
    return await Reader(clients, publisher, {"t": len(partitions)}, 1_000).receive(1_000)


async def test_events_of_a_partition_stay_in_their_order() -> None:
    found = await read([[10.0, 11.0, 2.0, 3.0], [10.5]])
    assert [d.offset for d in found if d.partition == 0] == [0, 1, 2, 3]


@given(st.lists(st.lists(st.floats(0, 9), max_size=5), min_size=1, max_size=4).filter(any))
async def test_every_order_of_timestamps_keeps_partitions_in_order(partitions: list[list[float]]) -> None:
    found = await read(partitions)
    for p, timestamps in enumerate(partitions):
        assert [d.timestamp for d in found if d.partition == p] == timestamps


async def test_partitions_are_merged_by_time_where_clocks_are_right() -> None:
    found = await read([[1.0, 4.0], [2.0, 3.0]])
    assert [d.timestamp for d in found] == [1.0, 2.0, 3.0, 4.0]
