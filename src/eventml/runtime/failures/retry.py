"""Retrying failed calls: `Retry` for streams and jobs, `FailFast` for callers who wait for an answer.

Both are a step around the call of the handler: a batch goes in, completions come out. Both find the bad
events of a failed batch by bisecting it. Events that are tried again wait in the `RetryQueue`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import ClassVar, Final, cast

import anyio

from eventml.backends.base import Completion, Subscription
from eventml.errors import UnavailableError
from eventml.handlers import Handler
from eventml.runtime.calls.caller import Item
from eventml.runtime.failures.classification import (
    CallResults,
    Failed,
    Verdict,
    classify,
    retry_after,
    should_retry,
)
from eventml.runtime.failures.dead_letters import DeadLetterWriter
from eventml.runtime.failures.exceptions import describe, failure_cause, leaves
from eventml.runtime.failures.outages import backoff_delay
from eventml.runtime.failures.poison import Call, CountedCalls
from eventml.runtime.failures.retry_queue import Bisection, FailedItem, RetryQueue
from eventml.runtime.failures.staleness import Staleness
from eventml.runtime.stats import Stats
from eventml.runtime.tracing import HandlerTracing

log = logging.getLogger("eventml")

_OUTAGE_INTERVAL: Final = 30.0  # seconds between two log lines about what a handler needs and is down


class Retry:
    """Retries failed events with backoff, and moves those that keep failing to the dead letters.

    - The infrastructure fails: the whole batch is called again until it succeeds.
    - Another failure of a batch: it is bisected.
    - A single event fails: it waits in the retry queue, up to `retries` times, while the stream goes on.
      Where order per key is kept, later events of its key wait behind it.

    The policy is in the handler's options.

    Attributes:
        ordered: Whether order per key is kept.
        log_level: The level of log lines about dead letters and bisected batches.
        keeps_dead_letters: Whether the dead letters are published; if not, the caller gets the failure.
        dead_letters: Moves deliveries to the dead letters.
        queue: The events that wait for a retry, and those that their keys hold back.
        staleness: Completes the events that are stale when their turn comes; None if none are.
        calls: The calls of the handler, before which attempts at redelivered events are counted.
    """

    log_level: ClassVar[int] = logging.WARNING
    keeps_dead_letters: ClassVar[bool] = True

    def __init__(
        self,
        call: Call,
        handler: Handler,
        *,
        stats: Stats,
        ordered: bool,
        subscription: Subscription | None = None,
        tracing: HandlerTracing | None = None,
    ) -> None:
        self.calls = self._call = CountedCalls(call, subscription, handler.name, stats)
        self._name = handler.name
        self._options = handler.options
        self._stats = stats
        self._outage_logged = -math.inf
        self.ordered = ordered
        self.dead_letters = DeadLetterWriter(handler, translate=self._as_reported, tracing=tracing)
        self.queue = RetryQueue(ordered=ordered)
        self.staleness: Staleness | None = None

    async def process(self, items: Sequence[Item]) -> list[Completion]:
        """Completions of a batch, in the order of its events, without those that now wait for a retry."""
        completions = await self._process(items)
        if self.queue:
            await self.calls.end()
        return completions

    async def _process(self, items: Sequence[Item]) -> list[Completion]:
        items = self.queue.admit(items)
        stale: list[Completion] = []
        if self.staleness is not None:
            items, stale = self.staleness.split(items)
        if not items:
            return stale
        try:
            results = await self._call_until_available(items)
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            if len(items) > 1 and not self._is_infrastructure(exc):
                return stale + await self._bisect(items, exc)
            return stale + [completion for item in items for completion in self._fail(item, exc)]
        return stale + self._finish(items, results)

    async def attempt(self, item: Item) -> Completion | Failed:
        """The result of one call for one event."""
        try:
            [result] = await self._call([item])
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            return Failed(exc)
        if not isinstance(result, Failed):
            self._outage_ended()
        return result

    async def settle(self, item: Item, error: Exception) -> Completion:
        """The completion of an event that has failed: it is called until that succeeds or is given up.

        No other event waits for it in the queue.
        """
        attempts, first_failure = 1, time.time()
        while self._should_retry(error, attempts):
            self._stats.retries += 1
            seconds = self._delay(attempts, error)
            self._log_outage(error, seconds)
            await anyio.sleep(seconds)
            result = await self.attempt(item)
            if not isinstance(result, Failed):
                return result
            attempts, error = attempts + 1, result.error
        return self.dead_letters.write(item.delivery, error, attempts=attempts, first_failure=first_failure)

    async def process_alone(self, item: Item) -> Completion:
        """The completion of one event, whatever waits in the queue."""
        result = await self.first_attempt(item)
        return await self.settle(item, result.error) if isinstance(result, Failed) else result

    async def first_attempt(self, item: Item) -> Completion | Failed:
        """As `attempt`, unless the event is stale."""
        stale = None if self.staleness is None else self.staleness.complete(item)
        return stale or await self.attempt(item)

    async def process_all(self, items: Sequence[Item]) -> list[Completion]:
        """As `process`, and of those that wait for a retry, too: waits until none does."""
        completions = await self.process(items)
        while (due := self.queue.next_due) is not None:
            await anyio.sleep(max(due - anyio.current_time(), 0))
            completions += await self.process_due()
        await self.calls.end()
        return completions

    async def process_due(self) -> list[Completion]:
        """Completions of the events whose retry is due, and of those that their keys held back."""
        completions: list[Completion] = []
        while (failed := self.queue.take_due(anyio.current_time())) is not None:
            completions += await self._try_again(failed)
        return completions

    async def _call_until_available(self, items: Sequence[Item]) -> CallResults:
        """Call, and call again while the infrastructure fails."""
        failures = 0
        while True:
            try:
                return await self._call(items)
            except Exception as exc:
                if not self._is_infrastructure(exc):
                    raise
                failures += 1
                self._stats.retries += 1
                seconds = self._delay(failures, exc)
                self._log_outage(exc, seconds)
                await self.calls.end()
                await anyio.sleep(seconds)

    def _finish(self, items: Sequence[Item], results: CallResults) -> list[Completion]:
        if Failed not in set(map(type, results)):
            self._outage_ended()
            return cast("list[Completion]", results)
        completions: list[Completion] = []
        for item, result in zip(items, results, strict=True):
            # An event behind a bad output of its key has been called already: it is called again, in order.
            if self.queue.holds_back(item):
                self.queue.admit([item])
            elif isinstance(result, Failed):
                completions += self._fail(item, result.error)
            else:
                completions.append(result)
        return completions

    async def _bisect(self, items: Sequence[Item], error: Exception) -> list[Completion]:
        # A handler that is stopped has said why, and its trials would say it again.
        level = logging.DEBUG if self._stats.breaker_open else self.log_level
        text = "%s: a batch of %d failed (%s); bisecting it"
        log.log(level, text, self._name, len(items), failure_cause(error))
        bisection = Bisection(len(items), self._options.bisect_for)
        completions: list[Completion] = []
        rest = dict(enumerate(items))
        while (part := bisection.next()) is not None:
            if chosen := [rest[position] for position in part if position in rest]:
                self._stats.retries += 1
                try:
                    completions += self._finish(chosen, await self._call_until_available(chosen))
                except Exception as exc:  # noqa: BLE001 - a handler may raise anything
                    error = exc
                    if self._is_infrastructure(exc):
                        break
                    if not bisection.failed():
                        continue
                    completions += self._fail(chosen[0], exc)
            # The part is settled, and so are those whose key now waits for a retry: they wait behind it.
            for position, item in list(rest.items()):
                if position in part:
                    del rest[position]
                elif self.queue.holds_back(item):
                    self.queue.admit([rest.pop(position)])
        else:
            if rest and not self._stats.breaker_open:
                log.error(
                    "%s: bisecting took more than %g s (consumer.%s.bisect_for); %d events have failed "
                    "without having been called alone",
                    *(self._name, self._options.bisect_for, self._name, len(rest)),
                )
        return completions + [self.dead_letters.write(item.delivery, error) for item in rest.values()]

    def _fail(
        self, item: Item, error: Exception, attempts: int = 1, first_failure: float | None = None
    ) -> list[Completion]:
        """Put an event that failed on its own into the retry queue, or move it to the dead letters."""
        if self._should_retry(error, attempts):
            seconds = self._delay(attempts, error)
            self._log_outage(error, seconds)
            failed = FailedItem(item, attempts, first_failure or time.time())
            self.queue.put(failed, anyio.current_time() + seconds)
            return []
        return [self.dead_letters.write(item.delivery, error, attempts=attempts, first_failure=first_failure)]

    async def _try_again(self, failed: FailedItem) -> list[Completion]:
        self._stats.retries += 1
        result = await self.attempt(failed.item)
        if isinstance(result, Failed):
            completions = self._fail(failed.item, result.error, failed.attempts + 1, failed.first_failure)
            if not completions:
                return []
        else:
            completions = [result]
        released = self.queue.release(failed.item)
        # One of those that were delivered before may kill the worker.
        singly = any(item.delivery.attempt > 1 for item in released)
        for part in [[item] for item in released] if singly else [released]:
            completions += await self.process(part)
        return completions

    def _should_retry(self, error: Exception, attempts: int) -> bool:
        return should_retry(error, attempts, self._options)

    def _log_outage(self, error: Exception, seconds: float) -> None:
        """Log once in a while that what the handler needs is down: its events are tried until it is back."""
        now = time.monotonic()
        if now >= self._outage_logged + _OUTAGE_INTERVAL and self._is_infrastructure(error):
            self._outage_logged = now
            log.warning("%s: %s; trying again, first in %.2f s", self._name, describe(error), seconds)

    def _outage_ended(self) -> None:
        if self._outage_logged != -math.inf:
            self._outage_logged = -math.inf
            log.warning("%s: calls succeed again", self._name)

    def _is_infrastructure(self, error: Exception) -> bool:
        return classify(error, self._options.retry_on) is Verdict.INFRASTRUCTURE

    def _as_reported(self, error: Exception) -> Exception:
        return error

    def _delay(self, failures: int, error: Exception) -> float:
        delay = backoff_delay(failures, self._options.backoff, self._options.max_backoff)
        if self._is_infrastructure(error):
            delay = max(delay, *map(retry_after, leaves(error)))
        return delay


class FailFast(Retry):
    """Gives failures back at once, without a retry, as callers wait for their answers.

    - The infrastructure fails: the whole batch fails with UnavailableError, and the caller may try again.
    - Another failure of a batch: it is bisected, so that the other events of the batch are answered.

    Its queue is always empty.
    """

    log_level = logging.DEBUG
    keeps_dead_letters = False

    async def _call_until_available(self, items: Sequence[Item]) -> CallResults:
        return await self._call(items)

    def _should_retry(self, error: Exception, attempts: int) -> bool:  # noqa: ARG002 - none is tried again
        return False

    def _as_reported(self, error: Exception) -> Exception:
        """The error to report: UnavailableError for every failure of the infrastructure."""
        if isinstance(error, UnavailableError) or not self._is_infrastructure(error):
            return error
        unavailable = UnavailableError("a service that the handler needs is unavailable")
        unavailable.__cause__ = error
        return unavailable.with_traceback(error.__traceback__)
