"""Records packed into batches of one partition each: where each record goes, and which are too large.

It does no I/O: `publishing` sends the batches.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from eventml.backends.kafka.wire import ID, Header, HeaderEncoder, KeyHasher
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Partition = tuple[str, int]
"""A topic and the number of one of its partitions; equal to aiokafka's TopicPartition."""

_OVERHEAD = 40  # bytes of a record at most, beside its key, value and headers
_HEADER_OVERHEAD = 10  # bytes of a header at most, beside its name and value


class TopicPartitions(NamedTuple):
    """How many partitions a topic has, and the numbers of those that have a leader now."""

    total: int
    writable: Sequence[int]


class Batch:
    """Records of one partition that are sent together.

    Attributes:
        builder: aiokafka's builder of the batch.
        append: Appends a record; falsy if there is no room. The first record always fits.
        positions: Positions of its records in the call to `pack`.
    """

    __slots__ = ("append", "builder", "positions")

    def __init__(self, builder: Any, limit: int | None) -> None:
        self.builder = builder
        self.positions: list[int] = []
        self.append = builder.append if limit is None else self._append_below(limit)

    def _append_below(self, limit: int) -> Callable[..., Any]:
        """As the builder's `append`, for a topic that takes less than the builder holds."""

        def append(*, timestamp: int | None, key: bytes | None, value: bytes, headers: list[Header]) -> Any:
            bound = len(value) + len(key or b"") + _OVERHEAD
            bound += sum(len(name) + len(text) + _HEADER_OVERHEAD for name, text in headers)
            if self.builder.record_count() and self.builder.size() + bound > limit:
                return None
            return self.builder.append(timestamp=timestamp, key=key, value=value, headers=headers)

        return append


class PackedRecords(NamedTuple):
    """The result of `Packer.pack`.

    Attributes:
        batches: Batches by partition, in the order in which to send them.
        too_large: Why records fit into no batch, by position.
    """

    batches: dict[Partition, deque[Batch]]
    too_large: dict[int, str]


class Packer:
    """Chooses the partitions of records and packs them into batches.

    Args:
        capacity: Most bytes in a batch.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._headers = HeaderEncoder()
        self._keys = KeyHasher()
        self._calls = 0
        self.limits: dict[str, int] = {}
        """Topics known to take less than `capacity` bytes in a batch, and how many."""

    def pack(
        self,
        new_builder: Callable[[], Any],
        records: Sequence[Record],
        positions: Iterable[int],
        topics: Mapping[str, TopicPartitions],
    ) -> PackedRecords:
        """Pack the records at these positions; the records of a partition stay in their order.

        Args:
            new_builder: Creates an empty batch builder of aiokafka's, with room for `capacity` bytes.
            records: The records of the call.
            positions: Which of them to pack.
            topics: Partitions of their topics.
        """
        packed = PackedRecords({}, {})
        for partition, chosen in self.partitions(records, positions, topics).items():
            batches = self._fill(new_builder, partition[0], records, chosen, packed.too_large)
            if batches:
                packed.batches[partition] = deque(batches)
        return packed

    def partitions(
        self, records: Sequence[Record], positions: Iterable[int], topics: Mapping[str, TopicPartitions]
    ) -> dict[Partition, list[int]]:
        """The positions of the records by the partition that each goes to.

        A record with a key goes to the key's partition, even if that has no leader now: order per key depends
        on it. All records of a call without a key go to one writable partition, the next one at each call:
        large batches, and an even load over time.
        """
        self._calls += 1
        hashed = self._keys.hash
        found: dict[Partition, list[int]] = {}
        by_number: dict[int, list[int]] = {}  # positions of the topic at hand
        by_topic: dict[str, dict[int, list[int]]] = {}
        topic, total, keyless = "", 1, 0
        for position in positions:
            record = records[position]
            if record.topic is not topic:
                topic = record.topic
                total, writable = topics[topic]
                keyless = writable[self._calls % len(writable)] if writable else self._calls % total
                by_number = by_topic.setdefault(topic, {})
            key = record.key
            number = keyless if key is None else hashed(key) % total
            if number in by_number:
                by_number[number].append(position)
            else:
                by_number[number] = found[topic, number] = [position]
        return found

    def _fill(
        self,
        new_builder: Callable[[], Any],
        topic: str,
        records: Sequence[Record],
        positions: Iterable[int],
        too_large: dict[int, str],
    ) -> list[Batch]:
        limit = self.limits.get(topic)
        encode = self._headers.encode
        shared: Mapping[str, str] | None = None
        common: list[Header] = []
        batches: list[Batch] = []
        append: Callable[..., Any] = _no_batch
        packed: list[int] = []
        for position in positions:
            record = records[position]
            if record.headers is not shared:
                shared, common = record.headers, encode(record.headers)
            id_ = record.id
            headers = [*common, (ID, id_.encode(errors="surrogateescape"))] if id_ else common
            if not append(timestamp=None, key=record.key, value=record.value, headers=headers):
                # A builder takes its first record whatever the size, so the size of that one is checked.
                batch = Batch(new_builder(), limit)
                batch.append(timestamp=None, key=record.key, value=record.value, headers=headers)
                if why := self._too_large(topic, batch.builder.size()):
                    too_large[position] = why
                    continue
                batches.append(batch)
                append, packed = batch.append, batch.positions
            packed.append(position)
        return batches

    def _too_large(self, topic: str, size: int) -> str | None:
        limit = self.limits.get(topic)
        most = min(limit or self._capacity, self._capacity)
        if size <= most:
            return None
        setting = "the topic's max.message.bytes" if limit else "backend.max_request_size"
        return f"a record of {size} bytes is too large for topic {topic}, which takes {most} ({setting})"


def _no_batch(**_: object) -> None:
    """`append` before there is a batch."""
