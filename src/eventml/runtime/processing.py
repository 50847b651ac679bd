"""Processing a batch: the steps from its events to its completions.

    screen ──► split ──► staleness ──► retry ──► call, check, encode
    (only batches with unusual records)  (or fail fast)

Most batches have neither undecodable nor replayed nor redelivered records, and skip the first two steps. Each
step is a class of its own file; the call is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventml.backends.base import Completion
from eventml.errors import DecodeError
from eventml.handlers import Handler
from eventml.records import REPLAY_GROUP
from eventml.runtime.batching import Item
from eventml.runtime.calling import Caller
from eventml.runtime.failures import CallResults, Deferred, Failed, PartialFailure, call_results
from eventml.runtime.outputs import Outputs
from eventml.runtime.poison import Part, PoisonDetector, crash_loop_error
from eventml.runtime.retry import Call, FailFast, Retry
from eventml.runtime.staleness import Staleness
from eventml.runtime.stats import Stats
from eventml.runtime.tracing import HandlerTracing

if TYPE_CHECKING:
    from collections.abc import Sequence


class BatchProcessor:
    """Turns batches of one handler into completions.

    Args:
        handler: The handler.
        caller: Calls it.
        outputs: Makes completions of its outputs; None for a consumer.
        stats: Counts calls, retries and stale events.
        ordered: Whether order per key is kept: an event that is tried again holds back its key.
        failure_policy: What to do when a call fails: `Retry` or `FailFast`.
        tracing: Records calls and dead letters; None if tracing is off.

    Attributes:
        dead_letters: Moves deliveries to the dead letters.
        retry_queue: The events that wait to be called again.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        caller: Caller,
        outputs: Outputs | None,
        stats: Stats,
        ordered: bool,
        failure_policy: type[Retry | FailFast] = Retry,
        tracing: HandlerTracing | None = None,
    ) -> None:
        self._group = handler.options.group
        call: Call = HandlerCall(handler, caller, outputs, stats)
        if tracing is not None:
            call = TracedCall(call, tracing)
        self._failures = failure_policy(call, handler, stats=stats, ordered=ordered, tracing=tracing)
        self._first: Staleness | Retry | FailFast = self._failures
        if handler.options.max_age is not None:
            self._first = Staleness(
                self._failures, handler, handler.options.max_age, outputs=outputs, stats=stats
            )
        self._poison = PoisonDetector(handler.options.max_deliveries)
        self.dead_letters = self._failures.dead_letters
        self.retry_queue = self._failures.queue

    async def process(self, items: Sequence[Item]) -> list[Completion]:
        """Completions of a batch of events, without those that now wait in the retry queue."""
        return await self._first.process(items)

    async def process_due(self) -> list[Completion]:
        """Completions of the events in the retry queue that are due."""
        return await self._failures.process_due()

    def screen(self, items: Sequence[Item]) -> tuple[list[Item], list[Completion]]:
        """The events of a batch to call, and the completions of the other records.

        An undecodable record becomes a dead letter. A dead letter that was replayed for another group is
        completed: this group has handled it.
        """
        events: list[Item] = []
        completions: list[Completion] = []
        for item in items:
            if item.delivery.record.headers.get(REPLAY_GROUP, self._group) != self._group:
                completions.append(Completion(item.delivery))
            elif isinstance(item.event, DecodeError):
                completions.append(self.dead_letters.write(item.delivery, item.event))
            else:
                events.append(item)
        return events, completions

    def split(self, items: Sequence[Item]) -> list[Part]:
        """The parts in which to process a batch that may have redelivered events, to find a poison event."""
        return self._poison.split(items)

    async def process_part(self, part: Part) -> list[Completion]:
        """As `process`; a poison event becomes a dead letter."""
        if part.poison:
            return [self.dead_letters.write(item.delivery, crash_loop_error(item)) for item in part.items]
        return await self.process(part.items)


class HandlerCall:
    """Calls the handler once for a batch: from its events to the results."""

    def __init__(self, handler: Handler, caller: Caller, outputs: Outputs | None, stats: Stats) -> None:
        self._batched = handler.batched
        self._caller = caller
        self._outputs = outputs
        self._stats = stats

    async def __call__(self, items: Sequence[Item]) -> CallResults:
        """Call, check and encode.

        Raises:
            Exception: the whole batch failed: whatever the handler raised, or an OutputError.
        """
        self._stats.calls += 1
        self._stats.batch.add(len(items))
        with self._stats.timed("call"):
            outputs: Any = await self._caller.call(items)
        deliveries = [item.delivery for item in items]
        if self._outputs is not None:
            with self._stats.timed("encode"):
                if self._batched:
                    return self._outputs.completions(deliveries, outputs)
                return self._outputs.completions_each(deliveries, outputs)
        if self._batched:
            return [Completion(delivery) for delivery in deliveries]
        return call_results(
            [
                output if isinstance(output, Failed | Deferred) else Completion(delivery)
                for delivery, output in zip(deliveries, outputs, strict=True)
            ]
        )


class TracedCall:
    """A call with a span around it."""

    def __init__(self, call: Call, tracing: HandlerTracing) -> None:
        self._call = call
        self._tracing = tracing

    async def __call__(self, items: Sequence[Item]) -> CallResults:
        """As the call; failures of single events are recorded too."""
        with self._tracing.processing([item.delivery.record.headers for item in items]) as record_error:
            results = await self._call(items)
            if isinstance(results, PartialFailure):
                for result in results.results:
                    if isinstance(result, Failed):
                        record_error(result.error)
            return results
