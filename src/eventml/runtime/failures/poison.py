"""Finding a poison event, which kills its worker (a segfault, out of memory).

A dead worker cannot report which event it was. All first deliveries that it had received may have been in a
call, so their next attempt is the second one: they are called in small parts. Before a call with redelivered
events their attempt is counted durably, and what has returned from its call counts no more. So a death counts
against the events of that one call only. From the third attempt on an event is called alone, and no other is
taken for it. An event with `max_deliveries` attempts is moved to the dead letters without another call.

First deliveries, and so all events while no worker dies, cost nothing.

Lost deliveries, which another member has by now, are not called. First deliveries can be lost too: called
after the ones before them were lost, they would be handled out of order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from math import isqrt
from operator import attrgetter
from typing import Final, NamedTuple

from eventml.backends.base import Completion, CountsAttempts, LosesDeliveries, Subscription
from eventml.errors import CrashLoopError
from eventml.records import Delivery
from eventml.runtime.calls.caller import Item
from eventml.runtime.failures.classification import CallResults
from eventml.runtime.failures.outages import BrokerRetry
from eventml.runtime.stats import Stats

Call = Callable[[Sequence[Item]], Awaitable[CallResults]]
"""One call of the handler for a batch. It raises if the whole batch failed."""

SINGLE_FROM: Final = 3
"""From this attempt on, events are called one at a time."""

_DELIVERY: Final = attrgetter("delivery")


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


def split(items: Sequence[Item], max_deliveries: int) -> list[Part]:
    """Split a batch into the parts to call, in its order: one part if no event was delivered before.

    `max_deliveries` is the number of attempts after which an event is a poison event, `SINGLE_FROM` at least.
    """
    parts: list[Part] = []
    for attempt, run in groupby(items, key=lambda item: min(item.delivery.attempt, SINGLE_FROM)):
        group = list(run)
        size = len(group) if attempt == 1 else isqrt(len(group)) if attempt < SINGLE_FROM else 1
        for start in range(0, len(group), size):
            part = group[start : start + size]
            poison = part[0].delivery.attempt > max_deliveries
            parts.append(Part(part, complete_first=attempt > 1, poison=poison))
    return parts


class CountedCalls:
    """Calls a handler without lost deliveries, and counts the attempts of redelivered events before the call.

    Args:
        subscription: The handler's, or None if nothing is delivered again.
        name: The handler's name, for messages.
    """

    def __init__(self, call: Call, subscription: Subscription | None, name: str, stats: Stats) -> None:
        self._call = call
        self._subscription = subscription if isinstance(subscription, CountsAttempts) else None
        self._losing = subscription if isinstance(subscription, LosesDeliveries) else None
        self._stats = stats
        self._broker = BrokerRetry(name, "counting attempts", stats)
        self._begun = False  # an attempt is counted, perhaps of an event whose call has returned
        self._lost: dict[int, Delivery] = {}  # by its id(), as long as the delivery is kept here

    async def __call__(self, items: Sequence[Item]) -> CallResults:
        """The results of a call; for a lost delivery a completion that `split_lost` takes out."""
        # First deliveries are never called together with others.
        if self._subscription is not None and (self._begun or items[0].delivery.attempt > 1):
            redelivered = [item.delivery for item in items if item.delivery.attempt > 1]
            await self._begin(self._subscription, redelivered)
        if self._losing is not None:
            for position in self._losing.lost_deliveries(map(_DELIVERY, items)):
                self._lost[id(items[position].delivery)] = items[position].delivery
        if not self._lost:
            return await self._call(items)
        are_lost = [id(item.delivery) in self._lost for item in items]
        kept = [item for item, is_lost in zip(items, are_lost, strict=True) if not is_lost]
        results = iter(await self._call(kept) if kept else ())
        both = zip(items, are_lost, strict=True)
        return [Completion(item.delivery) if is_lost else next(results) for item, is_lost in both]

    async def end(self) -> None:
        """Record that the last call has returned, as the next one may be far off."""
        if self._subscription is not None and self._begun:
            await self._begin(self._subscription, ())

    async def _begin(self, subscription: CountsAttempts, redelivered: Sequence[Delivery]) -> None:
        """Count the attempts, however long the broker is unavailable."""

        async def begin() -> None:
            with self._stats.timed("complete"):  # a wait for the broker is no stuck call
                await subscription.begin(redelivered)

        self._begun = True
        await self._broker.until_success(begin)
        self._begun = bool(redelivered)

    def split_lost(self, done: list[Completion]) -> tuple[list[Completion], list[Completion]]:
        """The completions of lost deliveries, and the others."""
        if not self._lost:
            return [], done
        lost = [completion for completion in done if self._lost.pop(id(completion.delivery), None)]
        gone = set(map(id, lost))
        return lost, [completion for completion in done if id(completion) not in gone]


def crash_loop_error(item: Item) -> CrashLoopError:
    """The reason why an event is moved to the dead letters without a call."""
    deliveries = item.delivery.attempt - 1
    return CrashLoopError(f"delivered {deliveries} times and never finished: it may have killed its workers")
