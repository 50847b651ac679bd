"""A batch that failed: find who is at fault, answer the others, try the culprit again, set it aside."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any, cast

import anyio

from eventml.backends.base import Completion
from eventml.errors import PublishError, UnavailableError
from eventml.runtime.bisecting import Bisection
from eventml.runtime.deadletters import dead_letter, is_letter
from eventml.runtime.failures import Verdict, backoff_delay, classify, describe, should_retry
from eventml.runtime.items import Deferred, Failed, Item
from eventml.runtime.parking import Parked, Parking

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from eventml.handlers import HandlerOptions
    from eventml.records import Delivery
    from eventml.runtime.stats import Stats
    from eventml.runtime.tracing import HandlerTracing

    Result = Completion | Failed | Deferred
    Call = Callable[[Sequence[Item]], Awaitable[list[Result]]]

log = logging.getLogger("eventml")


class Recovery:
    """Answers batches, whatever happens. What must wait for another try is parked meanwhile.

    Args:
        call: Calls the handler once. In the result, `Failed` stands in the place of each event that
            failed alone, and `Held` where one was not called because its key had failed before it;
            it raises where the whole batch failed.
        name: The handler's, for the log.
        options: The retry policy.
        stats: Counts retries.
        ordered: Whether a failed event holds back its key.
        apart: Whether the events of one call can fail one by one.
        interactive: Somebody waits for each answer and hears of each failure, as in a web service. Nothing
            is tried again then: a batch that the infrastructure failed is set aside at once, for
            UnavailableError, and whoever waits may ask again. What is set aside is not logged here.
        quiet: Do not log what is set aside: whoever asks for it says so by itself.
        tracing: Is told of each dead letter; None where nobody is.
    """

    def __init__(  # noqa: PLR0913 - a stream, a service and a batch job each want something else of it
        self,
        call: Call,
        *,
        name: str,
        options: HandlerOptions,
        stats: Stats,
        ordered: bool,
        apart: bool,
        interactive: bool = False,
        quiet: bool = False,
        tracing: HandlerTracing | None = None,
    ) -> None:
        self._call = call
        self._name = name
        self._options = options
        self._stats = stats
        self._apart = apart
        self._waited_for = interactive
        self._level = logging.DEBUG if interactive or quiet else logging.WARNING
        self._tracing = tracing
        self._letters = 0
        self.parking = Parking(ordered=ordered)

    async def answer(self, items: Sequence[Item]) -> list[Completion]:
        """Completions, in the events' order, of those that are answered or set aside; the rest is parked."""
        items = self.parking.admit(items)
        if not items:
            return []
        try:
            results = await self._until_infrastructure_answers(items)
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            if self._hopeless(exc):
                return [self.set_aside(item.delivery, exc) for item in items]
            if len(items) == 1:
                return self._failed(Parked(items[0], exc, 1, time.time()))
            return await self._bisect(items, exc)
        return self._sort_out(items, results)

    async def retry(self) -> list[Completion]:
        """Try again the parked events whose time has come, and go on with those behind them."""
        completions: list[Completion] = []
        while self.parking:
            parked = self.parking.take_due(anyio.current_time())
            if parked is None:
                break
            completions += await self._try_again(parked)
        return completions

    def set_aside(self, delivery: Delivery, error: Exception, **history: Any) -> Completion:
        """The completion that moves a delivery to the dead letters."""
        self._letters += 1
        if self._hopeless(error) and not isinstance(error, UnavailableError):
            error = _out_of_reach(error)
        letter = dead_letter(delivery, group=self._options.group, error=error, **history)
        log.log(
            self._level,
            "%s: %s set aside in %s: %s",
            self._name,
            delivery.record.id if delivery.record.id.isprintable() else ascii(delivery.record.id),
            letter.topic,
            describe(error),
        )
        if self._tracing is not None:
            self._tracing.set_aside(delivery.record.headers, error, letter.topic)
        return Completion(delivery, (letter,), dead_letter=True)

    def refused(self, completion: Completion, why: str) -> Completion:
        """What to complete instead, where the broker will not have the output (it is too large, say).

        The input is set aside. A dead letter that is refused itself is offered again: it has no other place.
        """
        if is_letter(completion):
            log.error(
                "%s: dead letter %s is refused: %s; nothing goes on until it is taken. See to the topic %s",
                self._name,
                completion.delivery.record.id,
                why,
                completion.outputs[0].topic,
            )
            return completion
        return self.set_aside(completion.delivery, PublishError(why))

    def count_letters(self, done: Sequence[Completion]) -> int:
        """How many of these completions are dead letters: free as long as there are none about."""
        if not self._letters:
            return 0
        found = sum(map(is_letter, done))
        self._letters -= found
        return found

    def _sort_out(self, items: Sequence[Item], results: Sequence[Result]) -> list[Completion]:
        if not self._apart or {Failed, Deferred}.isdisjoint(map(type, results)):
            return cast("list[Completion]", results)
        completions: list[Completion] = []
        for item, result in zip(items, results, strict=True):
            # One of its key may have been called for nothing: its output was bad, and is tried again first.
            if isinstance(result, Deferred) or self.parking.holds(item):
                self.parking.admit([item])
            elif isinstance(result, Failed):
                completions += self._failed(Parked(item, result.error, 1, time.time()))
            else:
                completions.append(result)
        return completions

    async def _until_infrastructure_answers(self, items: Sequence[Item]) -> list[Result]:
        """Call, and call again for as long as no event is at fault."""
        failures = 0
        while True:
            try:
                return await self._call(items)
            except Exception as exc:
                if self._waited_for or not self._of_infrastructure(exc):
                    raise
                failures += 1
                self._stats.retries += 1
                seconds = self._delay(failures)
                log.warning("%s: %s; the batch again in %.2f s", self._name, describe(exc), seconds)
                await anyio.sleep(seconds)

    async def _bisect(self, items: Sequence[Item], error: Exception) -> list[Completion]:
        log.log(
            self._level,
            "%s: a batch of %d failed (%s); bisecting it",
            self._name,
            len(items),
            describe(error),
        )
        bisection = Bisection(len(items))
        completions: list[Completion] = []
        waiting: dict[int, Item] = dict(enumerate(items))
        deadline = time.monotonic() + self._options.bisect_for
        fewest = 2 * math.ceil(math.log2(len(items))) + 1
        while (part := bisection.next()) is not None:
            if bisection.calls > fewest and time.monotonic() > deadline:
                return completions + self._give_up(list(waiting.values()), error)
            chosen = [waiting[position] for position in part if position in waiting]
            self._stats.retries += 1
            try:
                results = await self._until_infrastructure_answers(chosen) if chosen else []
            except Exception as exc:  # noqa: BLE001 - a handler may raise anything
                error = exc
                if self._hopeless(exc):
                    return completions + [self.set_aside(item.delivery, exc) for item in waiting.values()]
                if bisection.failed() is None:
                    continue
                completions += self._failed(Parked(chosen[0], exc, 1, time.time()))
            else:
                bisection.passed()
                completions += self._sort_out(chosen, results)
            for position in part:
                waiting.pop(position, None)
            self._hold_back(waiting)
        return completions

    def _hold_back(self, waiting: dict[int, Item]) -> None:
        """Let those of the rest whose key has just been parked wait behind it."""
        for position in [p for p, item in waiting.items() if self.parking.holds(item)]:
            self.parking.admit([waiting.pop(position)])

    def _give_up(self, items: Sequence[Item], error: Exception) -> list[Completion]:
        """Bisecting took too long: set aside what it has not cleared, to be replayed."""
        log.error("%s: bisecting took over %g s", self._name, self._options.bisect_for)
        return [self.set_aside(item.delivery, error) for item in items]

    def _failed(self, parked: Parked) -> list[Completion]:
        """Park an event that failed alone for another try; or set it aside, where that is no use."""
        if self._waited_for or not should_retry(parked.error, parked.attempts, self._options):
            return [
                self.set_aside(
                    parked.item.delivery,
                    parked.error,
                    attempts=parked.attempts,
                    first_failure=parked.first_failure,
                )
            ]
        seconds = self._delay(parked.attempts)
        self.parking.park(parked, anyio.current_time() + seconds)
        return []

    async def _try_again(self, parked: Parked) -> list[Completion]:
        self._stats.retries += 1
        try:
            [result] = await self._call([parked.item])
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            result = Failed(exc)
        if isinstance(result, Failed):
            completions = self._failed(parked._replace(error=result.error, attempts=parked.attempts + 1))
            if not completions:
                return []
        else:
            completions = [cast("Completion", result)]
        behind = self.parking.settle(parked.item)
        return completions + await self.answer(behind)

    def _hopeless(self, error: Exception) -> bool:
        """Whether there is no use in looking for an event at fault, nor time to wait."""
        return self._waited_for and self._of_infrastructure(error)

    def _of_infrastructure(self, error: Exception) -> bool:
        return classify(error, self._options.retry_on) is Verdict.INFRASTRUCTURE

    def _delay(self, failures: int) -> float:
        return backoff_delay(failures, self._options.backoff, self._options.max_backoff)


def _out_of_reach(error: Exception) -> UnavailableError:
    away = UnavailableError("something that the handler needs is out of reach")
    away.__cause__ = error
    return away
