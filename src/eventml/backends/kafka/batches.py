"""Records packed into batches, one partition each: what is sent, and what is too large to send."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from eventml.backends.kafka.wire import ID

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
            if self.positions:
                bound = len(value) + len(key or b"") + _OVERHEAD
                bound += sum(len(name) + len(text) + _HEADER_OVERHEAD for name, text in headers)
                if self.builder.size() + bound > limit:
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

    def pack(self, records: Sequence[Record], positions: Sequence[int], places: Sequence[Place]) -> None:
        """Append records to their partitions' batches, and begin new ones where those are full."""
        batches = self.batches
        encode = self._headers.encode
        shared: Mapping[str, str] | None = None
        common: list[Header] = []
        for position, place in zip(positions, places, strict=True):
            record = records[position]
            if record.headers is not shared:
                shared, common = record.headers, encode(record.headers)
            id_ = record.id
            headers = [*common, (ID, id_.encode(errors="surrogateescape"))] if id_ else common
            queue = batches.get(place)
            if queue is not None:
                batch = queue[-1]
                if batch.append(timestamp=None, key=record.key, value=record.value, headers=headers):
                    batch.positions.append(position)
                    continue
            self._begin(place, position, record, headers)

    def _begin(self, place: Place, position: int, record: Record, headers: list[Header]) -> None:
        limit = self._limits.get(place[0])
        batch = Batch(self._new_builder(), limit)
        batch.append(timestamp=None, key=record.key, value=record.value, headers=headers)
        batch.positions.append(position)
        size, most = batch.builder.size(), min(limit or self._capacity, self._capacity)
        if size > most:
            of = "the topic's max.message.bytes" if limit else "backend.max_request_size"
            self.too_large[position] = (
                f"{size} bytes are too many for topic {place[0]}: it takes {most} ({of})"
            )
        else:
            self.batches.setdefault(place, deque()).append(batch)


def places(
    records: Sequence[Record],
    positions: Sequence[int],
    partitions: Mapping[str, Partitions],
    partitioner: Partitioner,
) -> list[Place]:
    """Where each of the records at `positions` goes.

    One with a key to its key's partition, leader or not: its order hangs on that. The others
    together to one partition that can be written to, another at each call.
    """
    turn = partitioner.next_turn()
    hashed = partitioner.hash
    found: list[Place] = []
    for position in positions:
        record = records[position]
        topic, key = record.topic, record.key
        total, writable = partitions[topic]
        if key is not None:
            found.append((topic, hashed(key) % total))
        else:
            found.append((topic, writable[turn % len(writable)] if writable else turn % total))
    return found
