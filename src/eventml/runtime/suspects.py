"""Finding the event that kills its worker (a segfault, out of memory): a pure decision.

A dead worker cannot say which event it was. So what it had in hand, delivered again, is called in
smaller and smaller batches, each completed before the next begins; after the second death events are
called one at a time, in order, and so the first that was left unfinished is the culprit. An event that
has been delivered too often, and comes first, is set aside without being called again.
"""

from __future__ import annotations

from itertools import groupby
from math import isqrt
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from eventml.errors import CrashLoopError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventml.runtime.parking import Item

_ATTEMPT_OF = attrgetter("delivery.attempt")
_ALONE = 3  # from this delivery on, events are called one at a time


class Step(NamedTuple):
    """What to call next.

    Attributes:
        items: The events.
        settle: Complete them before the next step begins.
        condemned: Do not call them: set them aside.
    """

    items: Sequence[Item]
    settle: bool = False
    condemned: bool = False


def steps(items: Sequence[Item], max_deliveries: int) -> list[Step]:
    """How to call a batch: all at once where nothing in it was delivered before, else with caution."""
    if set(map(_ATTEMPT_OF, items)) <= {1}:
        return [Step(items)]
    return list(_cautious(items, max_deliveries))


def crash_loop(item: Item) -> CrashLoopError:
    """Why an event is set aside without being called."""
    times = item.delivery.attempt - 1
    return CrashLoopError(f"delivered {times} times and never finished: it may be what killed its workers")


def _cautious(items: Sequence[Item], max_deliveries: int) -> Iterator[Step]:
    first = True
    for level, run in groupby(items, key=lambda item: min(item.delivery.attempt, _ALONE)):
        some = list(run)
        size = len(some) if level == 1 else isqrt(len(some)) if level < _ALONE else 1
        for start in range(0, len(some), size):
            part = some[start : start + size]
            condemned = first and level == _ALONE and part[0].delivery.attempt > max_deliveries
            first = first and level != _ALONE
            yield Step(part, settle=level > 1, condemned=condemned)
