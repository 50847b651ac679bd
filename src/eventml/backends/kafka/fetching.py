"""Fetch deliveries: a batch of records at a time, in place of aiokafka's ConsumerRecords, one by one.

aiokafka parses the batches, checks them, and skips aborted transactions. Each batch then goes through its
generators as one item, a list of deliveries: to make a ConsumerRecord of each record first takes longer than
to parse it. A record that aiokafka cannot read is read by a parser that can.
"""

# ruff: noqa: SLF001 - it uses private members of aiokafka, as `connection` does

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from eventml.backends.kafka.wire import DeliveryDecoder
from eventml.records import Delivery

log = logging.getLogger("eventml")


async def fetch_deliveries(
    consumer: AIOKafkaConsumer, limit: int, within: int
) -> dict[TopicPartition, list[Delivery]]:
    """What a consumer has fetched, or fetches within so many milliseconds: some batches, by partition.

    So many batches that they hold `limit` records, if there are as many: one at first, because it may be
    large and compressed, then twice as many, because each may hold a single record. So there may be some more
    than `limit`. The consumer is one of `ClientFactory.consumer`.

    May raise any error of aiokafka's. The consumer may have moved past records then that nobody got: seek.
    """
    found: defaultdict[TopicPartition, list[Delivery]] = defaultdict(list)
    count, batches = 0, 1
    while count < limit:
        fetched = await consumer.getmany(timeout_ms=within, max_records=batches)
        if not fetched:
            break
        for partition, lists in fetched.items():
            deliveries = list(chain.from_iterable(lists))
            if deliveries:
                found[partition] += deliveries
                count += len(deliveries)
        within, batches = 0, 2 * batches
    return found


def decode_batches(consumer: AIOKafkaConsumer) -> None:
    """Make a consumer, not started, return lists of deliveries in place of its ConsumerRecords."""
    send = consumer._client.send

    async def fetch(node: int, request: Any, **options: Any) -> Any:
        response = await send(node, request, **options)
        if isinstance(request, FetchRequest):  # whose caller puts the records into `_records` without a wait
            fetcher = consumer._fetcher
            if not isinstance(fetcher._records, _Fetched):
                fetcher._records = _Fetched(fetcher._records)
            fetcher._records.data = {(topic, p[0]): p[-1] for topic, some in response.topics for p in some}
        return response

    consumer._client.send = fetch


class _Fetched(OrderedDict[TopicPartition, Any]):
    """What a consumer has fetched, in place of its fetcher's dict; `data` are the bytes that came last."""

    def __init__(self, fetched: OrderedDict[TopicPartition, Any]) -> None:
        super().__init__(fetched)
        self.data: dict[tuple[str, int], bytes] = {}
        self._decoder = DeliveryDecoder()

    def __setitem__(self, partition: TopicPartition, fetched: Any) -> None:
        """Add what was fetched of a partition: records, or an error."""
        records = getattr(fetched, "_partition_records", None)
        if records is not None:

            def deliveries(_: TopicPartition, batch: _Batch) -> list[Delivery]:
                return self._decoder.deliveries(partition, batch.records, records.next_fetch_offset)

            records._consumer_record = deliveries
            records._records = _Batches(records._records)
            records._records_iterator = _read(records, records._records_iterator, self.data.pop(partition))
        super().__setitem__(partition, fetched)


class _Batches:
    """aiokafka's batches of a partition, each as one item."""

    def __init__(self, batches: Any) -> None:
        self.has_next = batches.has_next
        self._next = batches.next_batch

    def next_batch(self) -> _Batch:
        return _Batch(self._next())


class _Batch:
    """A batch that aiokafka iterates as if it had one record: itself, at its last offset.

    `next` returns its first record: aiokafka reads from that whether a control batch aborts a transaction.
    """

    def __init__(self, records: Any) -> None:
        self.records = records

    def __getattr__(self, name: str) -> Any:
        return getattr(self.records, name)

    @property
    def offset(self) -> int:
        return int(self.records.next_offset) - 1

    def __iter__(self) -> Iterator[_Batch]:
        return iter((self,))

    def __next__(self) -> Any:
        return next(self.records)


def _read(records: Any, iterator: Iterator[Any], data: bytes) -> Iterator[Any]:
    """The batches that `iterator` reads; from one on that it cannot read, as `ReadableBatches` reads them."""
    try:
        yield from iterator
    except (ValueError, CorruptRecordException) as exc:
        offset = records.next_fetch_offset
        log.warning(
            "%s/%d: aiokafka cannot read a batch of records from offset %d on: %s", *records._tp, offset, exc
        )
        records._records = _Batches(ReadableBatches(data, offset))
        yield from records._unpack_records()
    finally:
        records._consumer_record = None  # it refers to `records`: a cycle that would keep the fetched bytes


class ReadableBatches(_MemoryRecordsPy):  # type: ignore[misc] # aiokafka has no types
    """The fetched batches from an offset on. Header names that are not UTF-8 are escaped.

    No other fault of a record gets past Kafka's brokers: they check the structure of what is published.
    """

    def __init__(self, data: bytes, offset: int) -> None:
        super().__init__(data)
        while self.has_next() and _DefaultRecordBatchPy(self._next_slice).next_offset <= offset:
            self._cache_next()

    def next_batch(self) -> Any:
        """The next batch."""
        batch = _EscapingBatch(self._next_slice)
        self._cache_next()
        return batch


class _EscapingBatch(_DefaultRecordBatchPy):  # type: ignore[misc] # aiokafka has no types
    def __iter__(self) -> Any:
        super().__iter__()
        self._buffer: Any = _EscapingBytes(self._buffer)
        return self


class _EscapingBytes(bytearray):
    """Its slices decode to text without an error."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _EscapingBytes(found) if isinstance(index, slice) else found

    def decode(self, encoding: str = "utf-8", _: str = "") -> str:
        return super().decode(encoding, "backslashreplace")
