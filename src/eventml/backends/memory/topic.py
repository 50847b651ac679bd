"""The state of one in-memory topic: its partitions, and each group's window of them.

Nothing here waits or locks: the hub does both.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from math import ceil
from operator import attrgetter, itemgetter
from typing import Any, Final, TypeVar
from zlib import crc32

from msgspec.structs import replace

from eventml.backends.base import Start
from eventml.records import Delivery, Record, count_bytes, count_fitting, foreign_id

T = TypeVar("T")

_KEY_OF: Final = attrgetter("key")
_ID_OF: Final = attrgetter("id")
_TIMESTAMP_OF: Final = attrgetter("timestamp")


class Room:
    """The limits of one read, in records and in bytes. Its first record is taken whatever its size.

    Attributes:
        limit: Number of records that it may still take.
        full: Whether nothing more may be taken: a limit is reached, or a record did not fit.
    """

    def __init__(self, limit: int, max_bytes: float) -> None:
        self.limit = limit
        self.full = False
        self._bytes = max_bytes
        self._empty = True

    def fill(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Take the first of up to `limit` deliveries, as many as there is room for."""
        fitting = deliveries
        if self._bytes != math.inf:
            fitting = deliveries[: count_fitting(deliveries, self._bytes) or int(self._empty)]
            self._bytes -= count_bytes(fitting)
        self._empty = self._empty and not fitting
        self.limit -= len(fitting)
        self.full = self.limit <= 0 or len(fitting) < len(deliveries)
        return fitting


class TopicState:
    """A topic: its partitions, and the bounds on the records, and on their bytes, that it keeps.

    Attributes:
        largest: The bytes of the largest record that it has ever had.
    """

    def __init__(self, name: str, partitions: int, retention: int, retention_bytes: float = math.inf) -> None:
        self.name = name
        self.partitions = [Partition(index) for index in range(partitions)]
        self.largest = 0
        self._retention = retention
        self._retention_bytes = retention_bytes
        self._bytes = 0
        self._turn = 0
        self._latest = 0.0

    def append(self, records: Sequence[Record]) -> None:
        """Append records, each to the partition of its key."""
        sizes = [_size(record) for record in records]
        self.largest = max(self.largest, max(sizes, default=0))
        self._bytes += sum(sizes)
        # The records of a call that have no key go to one partition, those of the next call to the next.
        self._turn = (self._turn + 1) % len(self.partitions)
        # A clock that is set back must not change the order within a partition.
        now = self._latest = max(time.time(), self._latest)
        if set(map(_KEY_OF, records)) == {None}:
            self.partitions[self._turn].extend(records, now)
            return
        parts: defaultdict[int, list[Record]] = defaultdict(list)
        for record in records:
            parts[self._turn if record.key is None else crc32(record.key) % len(self.partitions)].append(
                record
            )
        for index, part in parts.items():
            self.partitions[index].extend(part, now)

    def has_room(self) -> bool:
        """Whether records may be appended. Drops finished records if the topic is full.

        A write is accepted whole while the topic is below its bounds, so a bound is exceeded by one write
        at most; otherwise a batch larger than the bound could never be written.
        """
        while (
            size := sum(len(p.log) for p in self.partitions)
        ) >= self._retention or self._bytes >= self._retention_bytes:
            # A quarter at a time, because dropping from the front of a list costs its whole length. Every
            # partition drops its part, so that a reader which is not far behind misses nothing.
            finished = [(p, p.finished - p.base) for p in self.partitions]
            total = sum(count for _, count in finished)
            if not total:
                return False
            left = to_drop = min(max(size - self._retention * 3 // 4, ceil(size / 4)), total)
            for partition, count in sorted(finished, key=itemgetter(1), reverse=True):
                part = min(ceil(count * to_drop / total), left)
                self._bytes -= partition.drop(part)
                left -= part
        return True

    def slowest(self) -> str:
        """The name of the group with the largest lag."""
        lags = Counter[str]()
        for partition in self.partitions:
            lags.update({name: window.lag for name, window in partition.windows.items()})
        return max(lags, key=lags.__getitem__, default="")


class Partition:
    """An append-only log whose oldest records can be dropped, and by group the window of what it reads.

    The log holds deliveries, not records, so that all groups share the objects.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.base = 0
        self.log: list[Delivery] = []
        self.windows: dict[str, Window] = {}

    @property
    def end(self) -> int:
        """The offset of the next record."""
        return self.base + len(self.log)

    @property
    def finished(self) -> int:
        """The offset below which every group has finished all; the end if there is no group."""
        return min((window.safe for window in self.windows.values()), default=self.end)

    def window(self, group: str, start: Start) -> Window:
        """The window of a new group."""
        self.windows[group] = Window(self, self.offset_of(start))
        return self.windows[group]

    def offset_of(self, start: Start) -> int:
        """The offset of the first record that a group with this start gets."""
        if isinstance(start, str):
            return self.base if start == "earliest" else self.end
        return self.base + bisect_left(self.log, start, key=_TIMESTAMP_OF)

    def read(self, position: int, room: Room, end: float = math.inf) -> list[Delivery]:
        """Deliveries from an offset on and before another, as there is room; those not dropped."""
        start = max(position - self.base, 0)
        stop = min(start + room.limit, max(end - self.base, 0))
        return room.fill(self.log[start : int(stop)])

    def extend(self, records: Sequence[Record], now: float) -> None:
        """Append records with this timestamp, in seconds since the epoch."""
        index, end = self.index, self.end
        deliveries = [Delivery(record, index, offset, now) for offset, record in enumerate(records, end)]
        if "" in set(map(_ID_OF, records)):
            deliveries = [d if d.record.id else _named(d) for d in deliveries]
        self.log += deliveries

    def drop(self, count: int) -> int:
        """Drop the oldest records. Returns their bytes."""
        dropped = sum(_size(delivery.record) for delivery in self.log[:count])
        del self.log[:count]
        self.base += count
        return dropped


def by_topic(items: Sequence[T], topic_of: Callable[[T], str]) -> Iterable[tuple[str, Sequence[T]]]:
    """Split by topic, in order. The usual case of one topic makes no copy."""
    topics = set(map(topic_of, items))
    if len(topics) == 1:
        return [(topics.pop(), items)]
    return [(topic, [item for item in items if topic_of(item) == topic]) for topic in sorted(topics)]


def _size(record: Record) -> int:
    """Without its id, which a record may get later."""
    return len(record.value) + len(record.key or b"")


def _named(delivery: Delivery) -> Delivery:
    """The delivery with the id of a foreign record: topic, partition and offset."""
    record = delivery.record
    named = foreign_id(record.topic, delivery.partition, delivery.offset)
    return replace(delivery, record=replace(record, id=named))


class Window:
    """Deliveries of one partition that a group has received and not completed.

    All that is in flight is in flight with one member, the owner: the partition moves to its next owner when
    nothing is, which keeps the order per key. Offsets are delivered in rising order (returned ones again
    later) and finished in any order.

    Attributes:
        owner: The member that reads the partition; None while the group has no members.
        next_owner: The member that the partition moves to; None if it stays.
        position: The next offset that has not been delivered yet.
        in_flight: By offset, the number of the attempt.
        returned: By offset in rising order, the number of attempts, of what is to be delivered again.
        called: Offsets of the redelivered records that a handler is called with.
    """

    def __init__(self, partition: Partition, position: int) -> None:
        self.partition = partition
        self.owner: object | None = None
        self.next_owner: object | None = None
        self.position = position
        self.in_flight: dict[Any, int] = {}
        self.returned: dict[Any, int] = {}
        self.called: set[int | str] = set()

    def take(self, room: Room) -> list[Delivery]:
        """Deliveries, as there is room, which are then in flight with the owner. Returned ones come first."""
        partition = self.partition
        taken = []
        if self.returned:
            offsets = list(self.returned)[: room.limit]
            for delivery in room.fill([partition.log[offset - partition.base] for offset in offsets]):
                attempt = self.in_flight[delivery.offset] = self.returned.pop(delivery.offset) + 1
                taken.append(replace(delivery, attempt=attempt))
        fresh = [] if room.full else partition.read(self.position, room)
        if fresh:
            end = self.position + len(fresh)
            self.in_flight.update(dict.fromkeys(range(self.position, end), 1))
            self.position = end
        return taken + fresh if taken else fresh

    def finish(self, offset: int | str, member: object) -> bool:
        """Finish an offset. Returns False, without effect, if it is not in flight with that member."""
        return self.owner is member and self.in_flight.pop(offset, None) is not None

    def give_back(self) -> None:
        """Return all that is in flight, to be delivered again. A call of a redelivered record counts."""
        counts = {o: n if n == 1 or o in self.called else n - 1 for o, n in self.in_flight.items()}
        self.returned = dict(sorted((self.returned | counts).items()))
        self.in_flight.clear()
        self.called.clear()

    @property
    def safe(self) -> int:
        """The safe offset: all below it are finished, and it is the first that is not."""
        return min(chain(self.in_flight, self.returned), default=self.position)

    @property
    def lag(self) -> int:
        """The number of unfinished records."""
        return self.partition.end - self.position + len(self.in_flight) + len(self.returned)
