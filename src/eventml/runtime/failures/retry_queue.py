"""The state of retries, without I/O: the queue of events that wait, and the bisection of a failed batch."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from eventml.runtime.calls.caller import Item


class FailedItem(NamedTuple):
    """An event that has failed `attempts` times, first at `first_failure` (seconds since the epoch)."""

    item: Item
    attempts: int
    first_failure: float


class RetryQueue:
    """The events of one handler that wait to be called: pure state.

    A retry must not hold up the stream. Where order per key is kept, it holds up its own key only.

    Args:
        ordered: Whether a failed event holds back the later events of its key.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._heap: list[tuple[float, int, FailedItem]] = []
        self._numbers = count()  # events that are due at the same time leave in the order of their arrival
        self._held_back: dict[bytes | None, list[Item]] = {}

    def __len__(self) -> int:
        """How many events wait, the ones that are held back included."""
        return len(self._heap) + sum(map(len, self._held_back.values()))

    def put(self, failed: FailedItem, due: float) -> None:
        """Keep an event until `due`, and hold its key back until `release`."""
        heappush(self._heap, (due, next(self._numbers), failed))
        key = self._key(failed.item)
        if key is not None:
            self._held_back.setdefault(key, [])

    def admit(self, items: Sequence[Item]) -> Sequence[Item]:
        """The events that may be called now; the queue keeps those whose key is held back."""
        if not self._held_back:
            return items
        admitted = []
        for item in items:
            if self.holds_back(item):
                self._held_back[item.delivery.record.key].append(item)
            else:
                admitted.append(item)
        return admitted

    def holds_back(self, item: Item) -> bool:
        """Whether an event has to wait, because an earlier one of its key is tried again."""
        return item.delivery.record.key in self._held_back

    def take_due(self, now: float) -> FailedItem | None:
        """Take an event that is due; None if there is none. Its key stays held back until `release`."""
        if not self._heap or self._heap[0][0] > now:
            return None
        return heappop(self._heap)[2]

    def release(self, item: Item) -> list[Item]:
        """A taken event is finished: return the events that its key held back, in order."""
        key = self._key(item)
        return [] if key is None else self._held_back.pop(key, [])

    @property
    def next_due(self) -> float | None:
        """When the next event is due, by the clock of `put`; None if the queue is empty."""
        return self._heap[0][0] if self._heap else None

    def _key(self, item: Item) -> bytes | None:
        """The key that an event holds back; None if it holds back none."""
        return (item.delivery.record.key or None) if self._ordered else None


class Bisection:
    """Which parts of a failed batch to call next, to find its bad events: a state machine.

    Ask `next` for a part, call the handler with it, and report it if it `failed`; until `next` returns
    None. Parts come from left to right, so everything to the left of a part is settled.

    Halving is Hildebrandt and Zeller's delta debugging, reduced to faults that are independent of each other.
    One bad event among n costs at most 2*ceil(log2 n) + 1 calls, the first one, which failed, included.

    Args:
        size: The length of the batch, 2 at least, which has been called once and failed.
        seconds: When to stop, once the calls that a single bad event takes have been made.
    """

    def __init__(self, size: int, seconds: float = math.inf) -> None:
        self._open: list[range] = []
        self._current = range(size)
        self._deadline = time.monotonic() + seconds
        self._fewest_calls = 2 * math.ceil(math.log2(size)) + 1
        self.calls = 1
        self.failed()

    def next(self) -> range | None:
        """The leftmost part that is not settled; None if all is settled or the time is over."""
        if not self._open or (self.calls >= self._fewest_calls and time.monotonic() > self._deadline):
            return None
        self.calls += 1
        self._current = self._open.pop()
        return self._current

    def failed(self) -> bool:
        """Report that the handler failed for the part. Returns whether it is a single event: a bad one."""
        middle = len(self._current) // 2
        if middle == 0:
            return True
        self._open += [self._current[middle:], self._current[:middle]]
        return False
