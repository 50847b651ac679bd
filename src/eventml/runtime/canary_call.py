"""The calls of a predictor with a canary: both models are called for the events of the canary's keys.

What the canary fails the predictor's model answers, so that a bad canary costs no event. Both get the same
events, so that neither the keys nor the sizes of batches make a difference between their failures and times.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from eventml.runtime.calling import Item
from eventml.runtime.canary_trial import CanaryTrial, is_in_share
from eventml.runtime.failures import CallResults, Failed
from eventml.runtime.handler_call import HandlerCall
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SLOWDOWN: Final = 2.0
_SECONDS: Final = 0.001  # a smaller difference between two calls says nothing


class _Outcome(NamedTuple):
    """What a call gave: its results, all of them `Failed` if it raised `error`."""

    results: CallResults
    failed: int
    seconds: float
    error: Exception | None = None


class CanaryCall:
    """Calls a predictor's function with its model, with the canary, or with both, as the canary's share says.

    Args:
        trial: Gets an observation for each call with both.
        keep: Gets the results of both, the model's first, for each event that both have answered.
    """

    def __init__(
        self,
        call: HandlerCall,
        canary: HandlerCall,
        trial: CanaryTrial,
        stats: Stats,
        keep: Callable[[CallResults, CallResults], object],
    ) -> None:
        self._calls = [call, canary]
        self._trial = trial
        self._stats = stats
        self._keep = keep
        self._turn = 1

    async def __call__(self, items: Sequence[Item]) -> CallResults:
        """Call, check and encode, as a `HandlerCall` does. With a share of 1 the canary alone is called."""
        call, canary = self._calls
        share = self._trial.share
        chosen = [share > 0.0 and is_in_share(item.delivery.record, share) for item in items]
        if share >= 1.0 or not any(chosen):
            return await (canary if share >= 1.0 else call)(items)
        others = [item for item, is_chosen in zip(items, chosen, strict=True) if not is_chosen]
        answers = iter(await call(others) if others else ())
        both = iter(await self._both([item for item, yes in zip(items, chosen, strict=True) if yes]))
        return [next(both if is_chosen else answers) for is_chosen in chosen]

    async def _both(self, items: Sequence[Item]) -> CallResults:
        self._turn = -self._turn  # the second call may find things in caches
        outcomes = [await _outcome(call, items) for call in self._calls[:: self._turn]]
        model, canary = outcomes[:: self._turn]
        if canary.failed != model.failed:
            self._trial.observe("failures", 1.0 if canary.failed > model.failed else -1.0)
        elif not canary.failed:
            slow = canary.seconds > _SLOWDOWN * model.seconds + _SECONDS
            self._trial.observe("seconds", 1.0 if slow else -1.0)
        if model.error is not None and canary.failed:
            raise model.error  # so that the bad event is found
        self._stats.canary_answers += len(items) - canary.failed
        self._keep(model.results, canary.results)
        pairs = zip(model.results, canary.results, strict=True)
        return [first if isinstance(second, Failed) else second for first, second in pairs]


async def _outcome(call: HandlerCall, items: Sequence[Item]) -> _Outcome:
    begun = time.perf_counter()
    try:
        results = await call(items)
    except Exception as exc:  # noqa: BLE001 - a handler may raise anything
        return _Outcome([Failed(exc)] * len(items), len(items), time.perf_counter() - begun, exc)
    failed = sum(isinstance(result, Failed) for result in results)
    return _Outcome(results, failed, time.perf_counter() - begun)
