"""Events that wait for another try, and those of the same key that wait behind them: pure state.

A retry must not hold up the stream. Where order per key is kept, it holds up its own key only.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from eventml.runtime.items import Item

if TYPE_CHECKING:
    from collections.abc import Iterable


class Parked(NamedTuple):
    """An event between two tries.

    Attributes:
        item: The event.
        error: Why it failed last.
        attempts: How often it has been tried.
        first_failure: When it first failed, in seconds since the epoch.
    """

    item: Item
    error: Exception
    attempts: int
    first_failure: float


class Parking:
    """What one handler has put off.

    Args:
        ordered: Whether an event holds back those of its key that came after it.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._heap: list[tuple[float, int, Parked]] = []
        self._count = 0
        self._behind: dict[bytes | None, list[Item]] = {}
        self._size = 0

    def __len__(self) -> int:
        """How many events wait, those behind another included."""
        return self._size

    def park(self, parked: Parked, due: float) -> None:
        """Put an event off until `due`, and its key behind it."""
        self._count += 1
        self._size += 1
        heappush(self._heap, (due, self._count, parked))
        key = self._key(parked.item)
        if key is not None:
            self._behind.setdefault(key, [])

    def admit(self, items: Iterable[Item]) -> list[Item]:
        """Those that may be called now; the others wait behind their key."""
        if not self._behind:
            return list(items)
        admitted = []
        for item in items:
            if self.holds(item):
                self._behind[item.delivery.record.key].append(item)
                self._size += 1
            else:
                admitted.append(item)
        return admitted

    def holds(self, item: Item) -> bool:
        """Whether one of the event's key is parked, so that it must wait."""
        return item.delivery.record.key in self._behind

    def take_due(self, now: float) -> Parked | None:
        """An event whose time has come; None while there is none. Its key stays held until `settle`."""
        if not self._heap or self._heap[0][0] > now:
            return None
        self._size -= 1
        return heappop(self._heap)[2]

    def settle(self, item: Item) -> list[Item]:
        """The event is finished, one way or another. Returns those that waited behind it, in order."""
        key = self._key(item)
        released = [] if key is None else self._behind.pop(key, [])
        self._size -= len(released)
        return released

    @property
    def next_due(self) -> float | None:
        """When the next event's time comes, by the clock that `park` was given."""
        return self._heap[0][0] if self._heap else None

    def _key(self, item: Item) -> bytes | None:
        """What an event holds up: its key, where order is kept and it has one."""
        return (item.delivery.record.key or None) if self._ordered else None
