"""Deduplication by event id, for a handler with `dedupe_window`.

A duplicate of an event in flight waits for it. It is then completed without a call if that event was
completed, and called if that became a dead letter: it may be the corrected event. Which ids a group has
completed before is recorded by the backend, which is asked once a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from eventml.backends.base import Completion, DedupeSubscription
from eventml.handlers import Handler
from eventml.records import REPLAY_GROUP, Delivery
from eventml.runtime.calls.caller import Item
from eventml.runtime.failures.outages import BrokerRetry
from eventml.runtime.stats import Stats


class Dedupe:
    """The step in front of the call that completes duplicates of one handler without calling it.

    Attributes:
        waiting: How many duplicates wait for an event in flight.
    """

    def __init__(self, subscription: DedupeSubscription, handler: Handler, stats: Stats) -> None:
        self._subscription = subscription
        self._group = handler.options.group
        self._skips_replayed = handler.options.skip_replayed
        self._stats = stats
        self._asking = BrokerRetry(handler.name, "looking up ids", stats)
        self._duplicates: dict[str, list[Item]] = {}  # by the id of an event in flight
        self.waiting = 0

    async def remove_duplicates(self, items: Sequence[Item]) -> tuple[list[Item], list[Completion]]:
        """The events to call, and the completions of those whose ids were completed before.

        Duplicates of events in flight are in neither; `release` returns them. While the broker is
        unavailable, this waits.
        """
        first = self.hold_back(items)
        if not first:
            return [], []
        look_up = partial(self._subscription.completed_before, [item.delivery for item in first])
        positions = await self._asking.until_success(look_up)
        # A dead letter replayed for this group is called nevertheless: replaying it was asked for.
        duplicates = {p for p in positions if not self._replayed_here(first[p].delivery)}
        self._stats.duplicates += len(duplicates)
        to_call = [item for position, item in enumerate(first) if position not in duplicates]
        return to_call, [Completion(first[position].delivery) for position in sorted(duplicates)]

    def hold_back(self, items: Sequence[Item]) -> list[Item]:
        """Keep the duplicates of events in flight, and return the others, which are in flight from now on.

        A dead letter replayed for this group is neither: it is called in any case.
        """
        first = []
        for item in items:
            record = item.delivery.record
            if self._replayed_here(item.delivery):
                first.append(item)
            elif record.id in self._duplicates:
                self._duplicates[record.id].append(item)
                self.waiting += 1
            else:
                self._duplicates[record.id] = []
                first.append(item)
        return first

    def release(self, completed: Sequence[Completion]) -> list[Item]:
        """These are not in flight any more: return the duplicates of them, to be processed anew."""
        released: list[Item] = []
        for completion in completed:
            record = completion.delivery.record
            if not self._replayed_here(completion.delivery):
                released += self._duplicates.pop(record.id, ())
        self.waiting -= len(released)
        return released

    def mark(self, completions: Sequence[Completion]) -> list[Completion]:
        """The completions, each with its part in deduplication set.

        A dead letter records nothing, so that a corrected event with its id is accepted. A replayed dead
        letter records its id in any case; one that is skipped, as it was replayed for another group, none.
        """
        return list(map(self._mark, completions))

    def _mark(self, completion: Completion) -> Completion:
        here = self._replayed_here(completion.delivery)
        skipped = self._skips_replayed and not here and REPLAY_GROUP in completion.delivery.record.headers
        if completion.dead_letter or skipped:
            return completion
        part: Literal["drop", "record"] = "record" if here else "drop"
        return Completion(completion.delivery, completion.outputs, part)

    def _replayed_here(self, delivery: Delivery) -> bool:
        return delivery.record.headers.get(REPLAY_GROUP) == self._group
