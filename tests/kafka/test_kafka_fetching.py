"""How much is fetched at once, and what becomes of it after an error."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.kafka.fetching import _Fetched, fetch_deliveries
from eventml.backends.kafka.packing import RecordBatch
from eventml.backends.kafka.reader import Reader
from eventml.errors import UnavailableError
from eventml.records import Delivery, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTITION = TopicPartition("topic", 3)


class Consumer:
    """A consumer with these batches of records."""

    def __init__(self, batches: Sequence[int]) -> None:
        self.left = [[Delivery(Record("t", b""), 0, n, 0.0)] * size for n, size in enumerate(batches)]
        self.calls = 0

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, Any]:
        self.calls += 1
        assert timeout_ms == (500 if self.calls == 1 else 0), "only the first call waits"
        some, self.left = self.left[:max_records], self.left[max_records:]
        return {PARTITION: some} if some else {}


@pytest.mark.asyncio
@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60))
async def test_batches_are_fetched_until_there_are_enough_records(batches: list[int], limit: int) -> None:
    found = await fetch_deliveries(cast("Any", Consumer(batches)), limit, 500)
    count = sum(map(len, found.values()))
    assert count >= min(limit, sum(batches))
    assert all(found.values())


@pytest.mark.asyncio
async def test_a_large_batch_is_fetched_alone() -> None:
    """It may be compressed, and take a multiple of its size in memory."""
    found = await fetch_deliveries(cast("Any", Consumer([1_000] * 40)), 500, 500)
    assert sum(map(len, found.values())) == 1_000


class FailingConsumer(Consumer):
    """A consumer whose second call fails, after it has moved past records of another partition."""

    def __init__(self) -> None:
        super().__init__([1, 1, 1])
        self.position = 0

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, Any]:
        self.calls += 1
        if self.calls == 2:
            raise CorruptRecordException("of another partition")
        some = {PARTITION: [[Delivery(Record("t", b""), 3, self.position, 0.0)]]} if self.position < 3 else {}
        self.position += 1
        return some

    def partitions_for_topic(self, _: str) -> set[int]:
        return {3}

    def paused(self) -> set[TopicPartition]:
        return set()

    def seek(self, _: TopicPartition, offset: int) -> None:
        self.position = offset


@pytest.mark.asyncio
async def test_a_reader_loses_nothing_of_a_fetch_that_fails() -> None:
    consumer = FailingConsumer()
    clients: Any = SimpleNamespace(consumer=lambda *_: consumer)
    reader = Reader(clients, cast("Any", None), {"topic": 1}, 1_000)
    reader._next = {PARTITION: 0}
    with pytest.raises(UnavailableError):
        await reader.receive(5)
    assert [delivery.offset for delivery in await reader.receive(5)] == [0, 1, 2]


def test_what_was_fetched_is_freed_when_it_was_read() -> None:
    """Without the garbage collector, which seldom runs in a worker."""
    batch = bytes(RecordBatch([b"\x0e\0\0\0\1\2a\0"], 0, transactional=False)._build())
    records: Any = PartitionRecords(PARTITION, MemoryRecords(batch), [], 0, None, None, False, 1)
    fetched: Any = _Fetched(OrderedDict())
    fetched.data = {PARTITION: batch}
    fetched[PARTITION] = SimpleNamespace(_partition_records=records)
    gc.disable()
    try:
        found = [delivery for deliveries in records for delivery in deliveries]
        assert [delivery.record.value for delivery in found] == [b"a"]
        alive = weakref.ref(records)
        del records, fetched
        assert alive() is None
    finally:
        gc.enable()
