"""One call of a handler for a batch of a stream: call, check and encode, with one version of its model.

A new version of the model takes over between two calls (`HandlerCall.replace`). A call that has begun ends
with the version that it began with, and its outputs name that version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, NamedTuple

from eventml.backends.base import Completion
from eventml.errors import OutputError, Reject
from eventml.handlers import Handler
from eventml.models import Model
from eventml.records import Delivery
from eventml.runtime.calls.caller import Caller, Item
from eventml.runtime.calls.outputs import Outputs
from eventml.runtime.failures.classification import NOT_CALLED, CallResults, Failed, contains_rejects
from eventml.runtime.predictions import count_predictions
from eventml.runtime.stats import Histogram, Stats
from eventml.runtime.tracing import HandlerTracing

_UNFINISHED: Final = (AsyncGeneratorType, CoroutineType, GeneratorType)


class CallSteps(NamedTuple):
    """The steps of a call that depend on the version of the model. A consumer has no `outputs`."""

    caller: Caller
    outputs: Outputs | None = None
    tracing: HandlerTracing | None = None


class HandlerCall:
    """Calls a handler once for a batch, from its events to its results, in a span if tracing is on.

    Args:
        predictions: Counts the predictions; by default `predictions` of the `stats`.
    """

    def __init__(
        self, handler: Handler, steps: CallSteps, stats: Stats, predictions: Histogram | None = None
    ) -> None:
        self._name = handler.name
        self._batched = handler.batched
        self._steps = steps
        self._stats = stats
        self._predictions = predictions or stats.predictions

    @property
    def outputs(self) -> Outputs | None:
        """Makes the outputs of the version in use; None for a consumer."""
        return self._steps.outputs

    def replace(self, steps: CallSteps) -> None:
        """Use another version of the model from the next call on."""
        self._steps = steps

    async def __call__(self, items: Sequence[Item]) -> CallResults:
        """Call, check and encode.

        Raises:
            Exception: the whole batch failed: whatever the handler raised, or an OutputError.
        """
        steps = self._steps
        if steps.tracing is None:
            return await self._call(steps, items)
        with steps.tracing.processing([item.delivery.record.headers for item in items]) as record_error:
            results = await self._call(steps, items)
            for result in results:
                if isinstance(result, Failed) and result is not NOT_CALLED:
                    record_error(result.error)
            return results

    async def _call(self, steps: CallSteps, items: Sequence[Item]) -> CallResults:
        self._stats.calls += 1
        self._stats.batch.add(len(items))
        with self._stats.timed("call"):
            outputs: Any = await steps.caller.call(items)
        deliveries = [item.delivery for item in items]
        if steps.outputs is not None:
            with self._stats.timed("encode"):
                made = steps.outputs.completions if self._batched else steps.outputs.completions_each
                results = made(deliveries, outputs)
                count_predictions(results, self._predictions, self._stats.field)
                return results
        if self._batched:
            return self._consumed_batch(deliveries, outputs)
        return [self._consumed(d, output) for d, output in zip(deliveries, outputs, strict=True)]

    def _consumed_batch(self, deliveries: Sequence[Delivery], outputs: Any) -> CallResults:
        if isinstance(outputs, list | tuple) and contains_rejects(outputs):
            if len(outputs) == len(deliveries):
                return [self._consumed(d, output) for d, output in zip(deliveries, outputs, strict=True)]
            raise OutputError(f"{self._name} returned {len(outputs)} values for {len(deliveries)} events")
        if isinstance(outputs, Reject):
            raise OutputError(f"{self._name} returned a Reject; return a list, with one for each bad event")
        return [self._consumed(delivery, outputs) for delivery in deliveries]

    def _consumed(self, delivery: Delivery, output: Any) -> Completion | Failed:
        """The result of an event of a consumer, which has no output but may reject it."""
        if output is None:
            return Completion(delivery)
        if isinstance(output, Reject):
            return Failed(output)
        if isinstance(output, _UNFINISHED):
            kind = type(output).__name__
            return Failed(OutputError(f"{self._name} returned a {kind}, which is never run; use async def"))
        return output if isinstance(output, Failed) else Completion(delivery)


def call_without_stream(
    handler: Handler, model: Model | None, resources: Mapping[str, Any], *, source: str, stats: Stats
) -> HandlerCall:
    """A predictor's call for events that come from no subscription. Their order by key is not kept."""
    caller = Caller(handler, resources, ordered=False, stats=stats)
    return HandlerCall(handler, CallSteps(caller, Outputs(handler, {}, model=model, source=source)), stats)
