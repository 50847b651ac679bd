"""Stale events: those that are older than their handler's `max_age` when their turn comes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from eventml.backends.base import Completion
from eventml.errors import StaleError
from eventml.handlers import Handler
from eventml.runtime.calls.caller import Item
from eventml.runtime.calls.handler_call import HandlerCall
from eventml.runtime.failures.classification import Failed
from eventml.runtime.failures.dead_letters import DeadLetterWriter
from eventml.runtime.stats import Stats


class Staleness:
    """Completes stale events without a call.

    A stale event becomes a dead letter, is dropped, or is answered by a fallback (`when_stale`), whose
    output is checked and encoded as those of `call`.

    Args:
        max_age: Seconds since the broker's timestamp.
    """

    def __init__(
        self,
        handler: Handler,
        max_age: float,
        *,
        call: HandlerCall,
        dead_letters: DeadLetterWriter,
        stats: Stats,
    ) -> None:
        self._max_age = max_age
        self._when_stale = handler.options.when_stale
        self._call = call
        self._dead_letters = dead_letters
        self._stats = stats

    def split(self, items: Sequence[Item]) -> tuple[Sequence[Item], list[Completion]]:
        """The fresh events, and the completions of the stale ones."""
        fresh, stale = split_stale(items, self._max_age, time.time())
        self._stats.stale += len(stale)
        return fresh, [self._complete(item) for item in stale]

    def complete(self, item: Item) -> Completion | None:
        """The completion of an event if it is stale."""
        _, completions = self.split([item])
        return completions[0] if completions else None

    def _complete(self, stale: Item) -> Completion:
        delivery = stale.delivery
        if self._when_stale == "dead_letter":
            error = StaleError(f"{time.time() - delivery.timestamp:.3f} s old when its turn came")
            return self._dead_letters.write(delivery, error)
        if not callable(self._when_stale):
            return Completion(delivery)
        try:
            output = self._when_stale(stale.event)
            if self._call.outputs is None:
                return Completion(delivery)
            [result] = self._call.outputs.completions([delivery], [output])
        except Exception as exc:  # noqa: BLE001 - a fallback may raise anything
            result = Failed(exc)
        return self._dead_letters.write(delivery, result.error) if isinstance(result, Failed) else result


def split_stale(items: Sequence[Item], max_age: float, now: float) -> tuple[list[Item], list[Item]]:
    """The fresh and the stale events, by the broker's timestamps; `now` is in seconds since the epoch."""
    oldest = now - max_age
    fresh = [item for item in items if item.delivery.timestamp >= oldest]
    return fresh, [item for item in items if item.delivery.timestamp < oldest]
