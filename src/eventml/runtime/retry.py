"""Handling of failed calls: `Retry` for streams and jobs, `FailFast` for callers who wait for an answer.

Both find the bad events of a failed batch by bisecting it. Both are a step around the call of the handler: a
batch goes in, completions come out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio

from eventml.backends.base import Completion
from eventml.errors import UnavailableError
from eventml.handlers import Handler
from eventml.runtime.batching import Item
from eventml.runtime.bisection import Bisection
from eventml.runtime.dead_letters import DeadLetterWriter
from eventml.runtime.failures import (
    CallResults,
    Deferred,
    Failed,
    PartialFailure,
    Verdict,
    backoff_delay,
    classify,
    describe,
    should_retry,
)
from eventml.runtime.retry_queue import FailedItem, RetryQueue
from eventml.runtime.stats import Stats
from eventml.runtime.tracing import HandlerTracing

log = logging.getLogger("eventml")

Call = Callable[[Sequence[Item]], Awaitable[CallResults]]
"""One call of the handler for a batch. It raises if the whole batch failed."""


class Retry:
    """Retries failed events with backoff, and moves those that keep failing to the dead letters.

    - The infrastructure fails: the whole batch is called again until it succeeds.
    - Another failure of a batch: it is bisected.
    - A single event fails: it waits in the retry queue, up to `retries` times, while the stream goes on.
      Where order per key is kept, later events of its key wait behind it.

    Args:
        call: Calls the handler once, for a batch. It raises if the whole batch failed.
        handler: The handler, with the retry policy in its options.
        stats: Counts the retries.
        ordered: Whether order per key is kept.
        log_level: The level of log lines about dead letters and bisected batches.
        tracing: Records dead letters; None if tracing is off.

    Attributes:
        dead_letters: Moves deliveries to the dead letters.
        queue: The events that wait for a retry, and those that their keys hold back.
    """

    def __init__(
        self,
        call: Call,
        handler: Handler,
        *,
        stats: Stats,
        ordered: bool,
        log_level: int = logging.WARNING,
        tracing: HandlerTracing | None = None,
    ) -> None:
        self._call = call
        self._name = handler.name
        self._options = handler.options
        self._stats = stats
        self.dead_letters = DeadLetterWriter(handler, log_level=log_level, tracing=tracing)
        self.queue = RetryQueue(ordered=ordered)

    async def process(self, items: Sequence[Item]) -> list[Completion]:
        """Completions of a batch, in the order of its events, without those that now wait for a retry."""
        items = self.queue.admit(items)
        if not items:
            return []
        try:
            results = await self._call_until_available(items)
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            if len(items) == 1:
                return self._fail(FailedItem(items[0], exc, 1, time.time()))
            return await self._bisect(items, exc)
        return self._finish(items, results)

    async def process_due(self) -> list[Completion]:
        """Completions of the events whose retry is due, and of those that their keys held back."""
        completions: list[Completion] = []
        while self.queue:
            failed = self.queue.take_due(anyio.current_time())
            if failed is None:
                break
            completions += await self._try_again(failed)
        return completions

    async def _call_until_available(self, items: Sequence[Item]) -> CallResults:
        """Call, and call again while the infrastructure fails."""
        failures = 0
        while True:
            try:
                return await self._call(items)
            except Exception as exc:
                if classify(exc, self._options.retry_on) is not Verdict.INFRASTRUCTURE:
                    raise
                failures += 1
                self._stats.retries += 1
                seconds = self._delay(failures)
                log.warning("%s: %s; retrying the batch in %.2f s", self._name, describe(exc), seconds)
                await anyio.sleep(seconds)

    def _finish(self, items: Sequence[Item], results: CallResults) -> list[Completion]:
        if not isinstance(results, PartialFailure):
            return results
        completions: list[Completion] = []
        for item, result in zip(items, results.results, strict=True):
            # An event behind a bad output of its key has been called already: it is called again, in order.
            if isinstance(result, Deferred) or self.queue.holds_back(item):
                self.queue.admit([item])
            elif isinstance(result, Failed):
                completions += self._fail(FailedItem(item, result.error, 1, time.time()))
            else:
                completions.append(result)
        return completions

    async def _bisect(self, items: Sequence[Item], error: Exception) -> list[Completion]:
        _log_bisection(self._name, items, error, self.dead_letters.log_level)
        bisection = Bisection(len(items), self._options.bisect_for)
        completions: list[Completion] = []
        rest = dict(enumerate(items))
        while (part := bisection.next()) is not None:
            if chosen := [rest[position] for position in part if position in rest]:
                self._stats.retries += 1
                try:
                    results = await self._call_until_available(chosen)
                except Exception as exc:  # noqa: BLE001 - a handler may raise anything
                    error = exc
                    if not bisection.failed():
                        continue
                    completions += self._fail(FailedItem(chosen[0], exc, 1, time.time()))
                else:
                    bisection.passed()
                    completions += self._finish(chosen, results)
            for position in part:
                rest.pop(position, None)
            self._hold_back(rest)
        if rest:
            _log_time_over(self._name, len(rest), self._options.bisect_for)
            completions += [self.dead_letters.write(item.delivery, error) for item in rest.values()]
        return completions

    def _hold_back(self, rest: dict[int, Item]) -> None:
        """Move those of the rest whose key waits for a retry to the retry queue."""
        for position in [p for p, item in rest.items() if self.queue.holds_back(item)]:
            self.queue.admit([rest.pop(position)])

    def _fail(self, failed: FailedItem) -> list[Completion]:
        """Put an event that failed on its own into the retry queue, or move it to the dead letters."""
        if should_retry(failed.error, failed.attempts, self._options):
            self.queue.put(failed, anyio.current_time() + self._delay(failed.attempts))
            return []
        return [
            self.dead_letters.write(
                failed.item.delivery,
                failed.error,
                attempts=failed.attempts,
                first_failure=failed.first_failure,
            )
        ]

    async def _try_again(self, failed: FailedItem) -> list[Completion]:
        self._stats.retries += 1
        error: Exception | None = None
        completions: list[Completion] = []
        try:
            results = await self._call([failed.item])
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            error = exc
        else:
            if isinstance(results, PartialFailure):
                [result] = results.results
                error = result.error if isinstance(result, Failed) else None
            else:
                completions = results
        if error is not None:
            completions = self._fail(failed._replace(error=error, attempts=failed.attempts + 1))
            if not completions:
                return []
        return completions + await self.process(self.queue.release(failed.item))

    def _delay(self, failures: int) -> float:
        return backoff_delay(failures, self._options.backoff, self._options.max_backoff)


class FailFast:
    """Moves failed events to the dead letters at once, without a retry, as callers wait for their answers.

    - The infrastructure fails: the whole batch fails with UnavailableError, and the caller may try again.
    - Another failure of a batch: it is bisected, so that the other events of the batch are answered.

    The caller reports the failure, so it is logged for debugging only.

    Args: as for `Retry`.

    Attributes:
        dead_letters: Moves deliveries to the dead letters.
        queue: The retry queue, always empty.
    """

    def __init__(
        self,
        call: Call,
        handler: Handler,
        *,
        stats: Stats,
        ordered: bool,
        tracing: HandlerTracing | None = None,
    ) -> None:
        self._call = call
        self._name = handler.name
        self._options = handler.options
        self._stats = stats
        self.dead_letters = DeadLetterWriter(
            handler, log_level=logging.DEBUG, translate=self._as_unavailable, tracing=tracing
        )
        self.queue = RetryQueue(ordered=ordered)

    async def process(self, items: Sequence[Item]) -> list[Completion]:
        """Completions of a batch, in the order of its events: of every event, whether it failed or not."""
        try:
            return self._finish(items, await self._call(items))
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            if len(items) == 1 or self._is_infrastructure(exc):
                return self._fail(items, exc)
            return await self._bisect(items, exc)

    async def process_due(self) -> list[Completion]:
        """None: nothing waits for a retry."""
        return []

    async def _bisect(self, items: Sequence[Item], error: Exception) -> list[Completion]:
        _log_bisection(self._name, items, error, self.dead_letters.log_level)
        bisection = Bisection(len(items), self._options.bisect_for)
        completions: list[Completion] = []
        settled = 0
        while (part := bisection.next()) is not None:
            chosen = items[part.start : part.stop]
            self._stats.retries += 1
            try:
                completions += self._finish(chosen, await self._call(chosen))
            except Exception as exc:  # noqa: BLE001 - a handler may raise anything
                error = exc
                if self._is_infrastructure(exc):
                    break
                if not bisection.failed():
                    continue
                completions += self._fail(chosen, exc)
            else:
                bisection.passed()
            settled = part.stop
        else:
            if settled < len(items):
                _log_time_over(self._name, len(items) - settled, self._options.bisect_for)
        return completions + self._fail(items[settled:], error)

    def _finish(self, items: Sequence[Item], results: CallResults) -> list[Completion]:
        if not isinstance(results, PartialFailure):
            return results
        completions: list[Completion] = []
        for item, result in zip(items, results.results, strict=True):
            if isinstance(result, Completion):
                completions.append(result)
                continue
            deferred = UnavailableError("not called, as an earlier event of its key failed")
            completions += self._fail([item], result.error if isinstance(result, Failed) else deferred)
        return completions

    def _fail(self, items: Sequence[Item], error: Exception) -> list[Completion]:
        return [self.dead_letters.write(item.delivery, error) for item in items]

    def _is_infrastructure(self, error: Exception) -> bool:
        return classify(error, self._options.retry_on) is Verdict.INFRASTRUCTURE

    def _as_unavailable(self, error: Exception) -> Exception:
        """The error to report: UnavailableError for every failure of the infrastructure."""
        if isinstance(error, UnavailableError) or not self._is_infrastructure(error):
            return error
        unavailable = UnavailableError("a service that the handler needs is unavailable")
        unavailable.__cause__ = error
        return unavailable


def _log_bisection(name: str, items: Sequence[Item], error: Exception, level: int) -> None:
    log.log(level, "%s: a batch of %d failed (%s); bisecting it", name, len(items), describe(error))


def _log_time_over(name: str, events: int, seconds: float) -> None:
    log.error(
        "%s: bisecting took more than %g s (consumer.%s.bisect_for); %d events are moved to the dead letters "
        "without having been called alone",
        name,
        seconds,
        name,
        events,
    )
