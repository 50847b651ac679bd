"""The calls of a predictor with a canary: both models are called for the events of the canary's keys.

The predictor's model answers the events that the canary fails for, so that a bad canary costs no event. Both
get the same events, so that neither the keys nor the sizes of batches make a difference between their
failures and times.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from eventml.runtime.calling import Item
from eventml.runtime.canary_control import CanaryControl
from eventml.runtime.canary_trial import is_in_share
from eventml.runtime.failures import CallResults, Failed
from eventml.runtime.handler_call import HandlerCall
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS: Final = 0.001  # a smaller difference between two calls says nothing


class CanaryCall:
    """Calls a predictor's function with its model, with the canary, or with both, by the canary's share."""

    def __init__(self, call: HandlerCall, canary: HandlerCall, control: CanaryControl, stats: Stats) -> None:
        self._call, self._canary = call, canary
        self._control = control
        self._stats = stats
        self._turn = 1

    async def __call__(self, items: Sequence[Item]) -> CallResults:
        """Call, check and encode, as a `HandlerCall` does. With a share of 1 the canary alone is called."""
        share = self._control.trial.share
        chosen = [share > 0.0 and is_in_share(item.delivery.record, share) for item in items]
        self._stats.canary_events += sum(chosen)
        if share >= 1.0:
            return await self._canary(items)
        if not any(chosen):
            return await self._call(items)
        parts: dict[bool, list[Item]] = {True: [], False: []}
        for item, is_chosen in zip(items, chosen, strict=True):
            parts[is_chosen].append(item)
        others = iter(await self._call(parts[False]) if parts[False] else ())
        both = iter(await self._call_both(parts[True]))
        return [next(both if is_chosen else others) for is_chosen in chosen]

    async def _call_both(self, items: Sequence[Item]) -> CallResults:
        turn = self._turn = -self._turn  # the second call may find things in caches
        outcomes = [await _timed(call, items) for call in [self._call, self._canary][::turn]]
        (model, error, seconds), (canary, _, canary_seconds) = outcomes[::turn]
        failed = sum(isinstance(one, Failed) for one in model)
        canary_failed = sum(isinstance(one, Failed) for one in canary)
        if canary_failed != failed:
            self._control.observe("failures", 1.0 if canary_failed > failed else -1.0)
        elif not failed:
            slow = canary_seconds > self._control.options.max_slowdown * seconds + _SECONDS
            self._control.observe("seconds", 1.0 if slow else -1.0)
        if error is not None and canary_failed:
            raise error  # so that the bad event is found
        self._control.keep(model, canary)
        results = list(canary)
        for position, (one, other) in enumerate(zip(model, canary, strict=True)):
            if isinstance(other, Failed):
                results[position] = one
                if not isinstance(one, Failed):
                    self._control.failed(other.error)
        return results


async def _timed(call: HandlerCall, items: Sequence[Item]) -> tuple[CallResults, Exception | None, float]:
    """The results of a call, all `Failed` if it raised; its exception; and its time in seconds."""
    begun, error = time.perf_counter(), None
    try:
        results = await call(items)
    except Exception as exc:  # noqa: BLE001 - a handler may raise anything
        results, error = [Failed(exc)] * len(items), exc
    return results, error, time.perf_counter() - begun
