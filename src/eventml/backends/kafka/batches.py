"""Records packed into batches, one partition each: what is sent, and what is too large to send."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from eventml.backends.kafka.wire import ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventml.backends.kafka.partitioning import Partitioner
    from eventml.backends.kafka.wire import Header, HeaderEncoder
    from eventml.records import Record

    Place = tuple[str, int]  # a topic and its partition

_OVERHEAD = 40  # bytes that a record takes at most beside its key, value and headers
_HEADER_OVERHEAD = 10  # and a header beside its name and value


class Partitions(NamedTuple):
    """A topic's partitions: how many there are, and which have a leader now."""

    total: int
    writable: Sequence[int]


class Batch:
    """A batch under construction or on its way.

    Attributes:
        builder: aiokafka's.
        append: Appends a record if there is room, and says so; the first one always goes in.
        positions: Where its records stand in the call.
    """

    __slots__ = ("append", "builder", "positions")

    def __init__(self, builder: Any, limit: int | None) -> None:
        self.builder = builder
        self.positions: list[int] = []
        self.append = builder.append if limit is None else self._limited(limit)

    def _limited(self, limit: int) -> Callable[..., Any]:
        """As the builder's, for a topic that takes less than the builder holds."""

        def append(*, timestamp: int | None, key: bytes | None, value: bytes, headers: list[Header]) -> Any:
            bound = len(value) + len(key or b"") + _OVERHEAD
            bound += sum(len(name) + len(text) + _HEADER_OVERHEAD for name, text in headers)
            if self.builder.record_count() and self.builder.size() + bound > limit:
                return None
            return self.builder.append(timestamp=timestamp, key=key, value=value, headers=headers)

        return append


class Packer:
    """Packs the records of a call.

    Args:
        new_builder: Makes an empty batch of aiokafka's.
        capacity: How many bytes that one holds.
        limits: The topics that take less than that in one batch, and how much.
        headers: Encodes headers.
    """

    def __init__(
        self,
        new_builder: Callable[[], Any],
        *,
        capacity: int,
        limits: Mapping[str, int],
        headers: HeaderEncoder,
    ) -> None:
        self._new_builder = new_builder
        self._capacity = capacity
        self._limits = limits
        self._headers = headers
        self.batches: dict[Place, deque[Batch]] = {}
        """What is to be sent, by partition, in order."""
        self.too_large: dict[int, str] = {}
        """Why records fit into no batch, by position."""

    def pack(self, records: Sequence[Record], spread: Mapping[Place, Iterable[int]]) -> None:
        """Pack the records at these positions, each partition's in their order."""
        for place, positions in spread.items():
            batches = self._fill(place[0], records, positions)
            if batches:
                self.batches[place] = deque(batches)

    def _fill(self, topic: str, records: Sequence[Record], positions: Iterable[int]) -> list[Batch]:
        limit = self._limits.get(topic)
        encode = self._headers.encode
        shared: Mapping[str, str] | None = None
        common: list[Header] = []
        batches: list[Batch] = []
        append: Callable[..., Any] = _no_room
        taken: list[int] = []
        for position in positions:
            record = records[position]
            if record.headers is not shared:
                shared, common = record.headers, encode(record.headers)
            id_ = record.id
            headers = [*common, (ID, id_.encode(errors="surrogateescape"))] if id_ else common
            if not append(timestamp=None, key=record.key, value=record.value, headers=headers):
                # A builder takes its first record whatever the size, so that one is looked at.
                batch = Batch(self._new_builder(), limit)
                batch.append(timestamp=None, key=record.key, value=record.value, headers=headers)
                if not self._fits(topic, position, batch.builder.size()):
                    continue
                batches.append(batch)
                append, taken = batch.append, batch.positions
            taken.append(position)
        return batches

    def _fits(self, topic: str, position: int, size: int) -> bool:
        limit = self._limits.get(topic)
        most = min(limit or self._capacity, self._capacity)
        if size > most:
            of = "the topic's max.message.bytes" if limit else "backend.max_request_size"
            self.too_large[position] = f"{size} bytes are too many for topic {topic}: it takes {most} ({of})"
        return size <= most


def _no_room(**_: object) -> None:
    """Before there is a batch."""


def spread(
    records: Sequence[Record],
    positions: Iterable[int],
    partitions: Mapping[str, Partitions],
    partitioner: Partitioner,
) -> dict[Place, list[int]]:
    """Which of the records at `positions` go where.

    One with a key to its key's partition, leader or not: its order hangs on that. The others
    together to one partition that can be written to, another at each call.
    """
    turn = partitioner.next_turn()
    hashed = partitioner.hash
    found: dict[Place, list[int]] = {}
    here: dict[int, list[int]] = {}  # the positions of the topic at hand, by partition
    by_topic: dict[str, dict[int, list[int]]] = {}
    topic, total, keyless = "", 1, 0
    for position in positions:
        record = records[position]
        if record.topic is not topic:
            topic = record.topic
            total, writable = partitions[topic]
            keyless = writable[turn % len(writable)] if writable else turn % total
            here = by_topic.setdefault(topic, {})
        key = record.key
        partition = keyless if key is None else hashed(key) % total
        if partition in here:
            here[partition].append(position)
        else:
            here[partition] = found[topic, partition] = [position]
    return found
