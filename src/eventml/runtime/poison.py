"""Finding a poison event, which kills its worker (a segfault, out of memory): pure decisions.

A dead worker cannot report which event it was. So the events that it had in flight, once redelivered, are
called in smaller and smaller batches, each completed before the next one is called. From the third delivery
on they are called one at a time and in order, so that the first one that was left unfinished is the poison
event. An event that has been delivered more than `max_deliveries` times, and is the first redelivered one
that a new worker takes, is moved to the dead letters without a call.

Where several workers share the events of a dead one, the first event that one of them takes may be innocent:
it was behind the poison event at every delivery and died with it. So at every other attempt events are called
in reverse order, and those behind the poison event are finished. Simulated with 2 to 8 workers and one poison
event, from four deliveries on: an innocent event is moved to the dead letters in one run of ten without this,
and in fewer than one of a hundred with it. With three poison events it is one run of three without, and one
of six with it.
"""

from __future__ import annotations

from itertools import groupby
from math import isqrt
from typing import TYPE_CHECKING, Final, NamedTuple

from eventml.errors import CrashLoopError
from eventml.runtime.calling import Item

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

SINGLE_FROM: Final = 3
"""From this delivery on, events are called one at a time."""


class Part(NamedTuple):
    """A part of a batch that is called by itself.

    Attributes:
        items: The events.
        complete_first: Whether the part has to be completed before the next one is called.
        poison: Whether it is a poison event, to be moved to the dead letters without a call.
    """

    items: Sequence[Item]
    complete_first: bool = False
    poison: bool = False


class PoisonDetector:
    """Decides how one worker calls redelivered events, from the start of the worker on.

    One worker moves at most one event to the dead letters: those after the first one may be innocent, though
    delivered as often, as they may have been behind the poison event every time. A second poison event kills
    the worker, and is the first one that the next worker takes.

    Args:
        max_deliveries: How often an event may be delivered without being finished, `SINGLE_FROM` at least.
    """

    def __init__(self, max_deliveries: int) -> None:
        self._max_deliveries = max_deliveries
        self._first = True

    def split(self, items: Sequence[Item]) -> list[Part]:
        """Split a batch into the parts to call: one part if no event was delivered before."""
        parts: list[Part] = []
        for attempt, run in groupby(items, key=lambda item: min(item.delivery.attempt, SINGLE_FROM)):
            group = list(run)
            if attempt == SINGLE_FROM:
                group = self._ordered(group)
            size = len(group) if attempt == 1 else isqrt(len(group)) if attempt < SINGLE_FROM else 1
            for start in range(0, len(group), size):
                part = group[start : start + size]
                poison = attempt == SINGLE_FROM and self._is_poison(part[0])
                parts.append(Part(part, complete_first=attempt > 1, poison=poison))
        return parts

    def _ordered(self, items: list[Item]) -> list[Item]:
        """In their order, or in reverse, in which events of one key still keep theirs."""
        attempts_left = self._max_deliveries - items[0].delivery.attempt
        # The last attempt is in order: the event that comes first in it is the first one of the next delivery
        # too.
        if attempts_left < 1 or attempts_left % 2 == 0:
            return items
        by_key: dict[Hashable, list[Item]] = {}
        for position, item in enumerate(items):
            by_key.setdefault(item.delivery.record.key or position, []).append(item)
        return [item for same_key in reversed(by_key.values()) for item in same_key]

    def _is_poison(self, item: Item) -> bool:
        first, self._first = self._first, False
        return first and item.delivery.attempt > self._max_deliveries


def crash_loop_error(item: Item) -> CrashLoopError:
    """The reason why an event is moved to the dead letters without a call."""
    deliveries = item.delivery.attempt - 1
    return CrashLoopError(f"delivered {deliveries} times and never finished: it may have killed its workers")
