"""Finding the event that kills its worker (a segfault, out of memory): pure decisions.

A dead worker cannot say which event it was. So what it had in hand, delivered again, is called in
smaller and smaller batches, each completed before the next begins; after the second death events are
called one at a time, in order, and so the first that was left unfinished is the culprit. An event that
has been delivered too often, and is the first that a new worker finds, is set aside without being
called again.

Where several workers share what a dead one had, the first that one of them finds may be innocent: it has
died along with the culprit every time, behind it. So at every other attempt events are called backwards,
and what lies behind the culprit is answered. With 2 to 8 workers and one culprit, simulated, an innocent is
condemned along with it in one run of ten without this, and in fewer than one of a hundred with it, from
four deliveries on; with three culprits in one run of three, and of six.
"""

from __future__ import annotations

from itertools import groupby
from math import isqrt
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from eventml.errors import CrashLoopError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from eventml.runtime.items import Item

_ATTEMPT_OF = attrgetter("delivery.attempt")
ALONE: Final = 3
"""From this delivery on, events are called one at a time: what was delivered no oftener cannot be told from
its neighbours."""


class Step(NamedTuple):
    """What to call next.

    Attributes:
        items: The events.
        settle: Complete them before the next step begins.
        condemned: Do not call them: set them aside.
        plain: All are events, and none was delivered before.
    """

    items: Sequence[Item]
    settle: bool = False
    condemned: bool = False
    plain: bool = False


class Suspects:
    """How one worker calls its batches, from its start on.

    What comes after its first suspect may be innocent, though delivered as often: it may have lain behind
    the culprit every time, and never been called alone. So one worker condemns one event at most; a
    second culprit kills it, and is the first that the next worker finds.

    Args:
        max_deliveries: How often an event may be delivered before it is condemned, `ALONE` at least.
    """

    def __init__(self, max_deliveries: int) -> None:
        self._max_deliveries = max_deliveries
        self._first = True

    def steps(self, items: Sequence[Item]) -> list[Step]:
        """How to call a batch: all at once where nothing in it was delivered before, else with caution."""
        if set(map(_ATTEMPT_OF, items)) <= {1}:
            return [Step(items)]
        return list(self._cautious(items))

    def _cautious(self, items: Sequence[Item]) -> Iterator[Step]:
        for level, run in groupby(items, key=lambda item: min(item.delivery.attempt, ALONE)):
            some = list(run)
            if level == ALONE:
                some = self._in_turn(some)
            size = len(some) if level == 1 else isqrt(len(some)) if level < ALONE else 1
            for start in range(0, len(some), size):
                part = some[start : start + size]
                yield Step(part, settle=level > 1, condemned=level == ALONE and self._condemns(part[0]))

    def _in_turn(self, suspects: list[Item]) -> list[Item]:
        """In their order, or the other way round; those of one key stay in theirs."""
        before_last = self._max_deliveries - suspects[0].delivery.attempt
        # From the last attempt on it is forwards: what is first then is first when it is condemned.
        if before_last < 1 or before_last % 2 == 0:
            return suspects
        by_key: dict[Hashable, list[Item]] = {}
        for position, item in enumerate(suspects):
            by_key.setdefault(item.delivery.record.key or position, []).append(item)
        return [item for together in reversed(by_key.values()) for item in together]

    def _condemns(self, suspect: Item) -> bool:
        first, self._first = self._first, False
        return first and suspect.delivery.attempt > self._max_deliveries


def crash_loop(item: Item) -> CrashLoopError:
    """Why an event is set aside without being called."""
    times = item.delivery.attempt - 1
    return CrashLoopError(f"delivered {times} times and never finished: it may be what killed its workers")
