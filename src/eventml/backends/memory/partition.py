"""One partition: its log, and each group's window of deliveries in flight. Nothing here waits or locks."""

from __future__ import annotations

from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from eventml.records import Delivery, Record, foreign_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

M = TypeVar("M")

_ID_OF = attrgetter("id")


class Partition:
    """An append-only log whose oldest entries can be dropped.

    It stores deliveries, not records, so that all groups share the objects.
    """

    __slots__ = ("base", "index", "log")

    def __init__(self, index: int) -> None:
        self.index = index
        self.base = 0
        self.log: list[Delivery] = []

    @property
    def end(self) -> int:
        """The offset of the next record."""
        return self.base + len(self.log)

    def read(self, position: int, limit: int) -> list[Delivery]:
        """Deliveries from an offset on; from the oldest one if that was dropped."""
        start = max(position - self.base, 0)
        return self.log[start : start + limit]

    def extend(self, records: Sequence[Record], now: float) -> None:
        """Append records with this timestamp, in seconds since the epoch."""
        index, end = self.index, self.end
        deliveries = [Delivery(record, index, offset, now) for offset, record in enumerate(records, end)]
        if "" in set(map(_ID_OF, records)):
            deliveries = [d if d.record.id else _named(d) for d in deliveries]
        self.log += deliveries

    def drop(self, count: int) -> None:
        """Drop the oldest records."""
        del self.log[:count]
        self.base += count


def _named(delivery: Delivery) -> Delivery:
    """The delivery with the id of a foreign record: topic, partition and offset."""
    record = delivery.record
    named = foreign_id(record.topic, delivery.partition, delivery.offset)
    return msgspec.structs.replace(delivery, record=msgspec.structs.replace(record, id=named))


class Window(Generic[M]):
    """Offsets of one partition that were delivered to a group and are not finished, each with its member.

    Offsets are delivered in rising order (returned ones again later) and finished in any order.
    """

    __slots__ = ("_in_flight", "_returned", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        """The next offset that has not been delivered yet."""
        self._in_flight: dict[Any, M] = {}  # by offset
        self._returned: dict[int, None] = {}

    def deliver(self, offsets: Iterable[int], member: M, position: int) -> None:
        """Record these offsets as in flight with a member, and `position` as the next new offset."""
        self._in_flight.update(dict.fromkeys(offsets, member))
        self.position = position

    def finish(self, offset: int | str, member: M) -> bool:
        """Finish an offset. Returns False, without effect, if it is not in flight with that member."""
        if self._in_flight.get(offset) is not member:
            return False
        del self._in_flight[offset]
        return True

    def give_back(self, member: M) -> list[int]:
        """Return all offsets in flight with a member, to be delivered again. Returns them in rising order."""
        offsets = sorted(offset for offset, who in self._in_flight.items() if who is member)
        for offset in offsets:
            del self._in_flight[offset]
        self._returned = dict.fromkeys(sorted((*self._returned, *offsets)))
        return offsets

    def take_returned(self, limit: int, member: M) -> list[int]:
        """Deliver returned offsets again, the lowest first."""
        if not self._returned:
            return []
        offsets = list(self._returned)[:limit]
        for offset in offsets:
            del self._returned[offset]
        self._in_flight.update(dict.fromkeys(offsets, member))
        return offsets

    @property
    def safe(self) -> int:
        """The safe offset: all below it are finished, and it is the first that is not."""
        return min(chain(self._in_flight, self._returned), default=self.position)

    @property
    def in_flight(self) -> int:
        """The number of offsets in flight."""
        return len(self._in_flight)

    def unfinished(self, end: int) -> int:
        """The number of unfinished offsets below `end`."""
        return end - self.position + len(self._in_flight) + len(self._returned)
