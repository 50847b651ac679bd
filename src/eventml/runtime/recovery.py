"""A batch that failed: find who is at fault, answer the others, set the culprit aside."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import anyio

from eventml.backends.base import Completion
from eventml.runtime.bisecting import Bisection
from eventml.runtime.deadletters import PREFIX, dead_letter
from eventml.runtime.failures import Failed, Verdict, classify, delay, describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from eventml.handlers import Options
    from eventml.records import Delivery
    from eventml.runtime.stats import Stats

    Answer = Callable[[Sequence[Delivery], Sequence[Any]], Awaitable[list[Completion | Failed]]]

log = logging.getLogger("eventml")


class Recovery:
    """Answers batches, whatever happens.

    Args:
        answer: Calls the handler once. In the result, `Failed` stands in the place of each event that
            failed alone; it raises where the whole batch failed.
        name: The handler's, for the log.
        options: The retry policy.
        stats: Counts retries.
    """

    def __init__(self, answer: Answer, *, name: str, options: Options, stats: Stats) -> None:
        self._answer = answer
        self._name = name
        self._options = options
        self._stats = stats
        self._letters = 0

    async def answer(self, deliveries: Sequence[Delivery], events: Sequence[Any]) -> list[Completion]:
        """A completion for each delivery, in their order: outputs, or a dead letter."""
        try:
            results = await self._until_infrastructure_answers(deliveries, events)
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            if len(events) == 1:
                return [await self._alone(deliveries[0], events[0], exc)]
            return await self._bisect(deliveries, events, exc)
        if Failed not in set(map(type, results)):
            return cast("list[Completion]", results)
        return [
            await self._alone(delivery, event, result.error) if isinstance(result, Failed) else result
            for delivery, event, result in zip(deliveries, events, results, strict=True)
        ]

    async def _until_infrastructure_answers(
        self, deliveries: Sequence[Delivery], events: Sequence[Any]
    ) -> list[Completion | Failed]:
        """Call, and call again for as long as no event is at fault."""
        failures = 0
        while True:
            try:
                return await self._answer(deliveries, events)
            except Exception as exc:
                if classify(exc, self._options.retry_on) is not Verdict.INFRASTRUCTURE:
                    raise
                failures += 1
                await self._back_off(failures, exc)

    async def _bisect(
        self, deliveries: Sequence[Delivery], events: Sequence[Any], error: Exception
    ) -> list[Completion]:
        log.warning("%s: a batch of %d failed (%s); bisecting it", self._name, len(events), describe(error))
        bisection = Bisection(len(events), max_calls=2 * len(events))
        completions: list[Completion] = []
        while (part := bisection.next()) is not None:
            some, theirs = deliveries[part.start : part.stop], events[part.start : part.stop]
            self._stats.retries += 1
            try:
                results = await self._until_infrastructure_answers(some, theirs)
            except Exception as exc:  # noqa: BLE001 - a handler may raise anything
                culprit = bisection.failed()
                if culprit is not None:
                    completions.append(await self._alone(deliveries[culprit], events[culprit], exc))
                continue
            bisection.passed()
            completions += [result for result in results if not isinstance(result, Failed)]
        return completions

    async def _alone(self, delivery: Delivery, event: Any, error: Exception) -> Completion:
        """One event that failed by itself: try again as often as the policy says, then set it aside."""
        attempts = 1
        while classify(error, self._options.retry_on) is not Verdict.REJECTED:
            infrastructure = classify(error, self._options.retry_on) is Verdict.INFRASTRUCTURE
            if attempts > self._options.retries and not infrastructure:
                break
            await self._back_off(attempts, error)
            attempts += 1
            try:
                [result] = await self._answer([delivery], [event])
            except Exception as exc:  # noqa: BLE001 - a handler may raise anything
                error = exc
                continue
            if not isinstance(result, Failed):
                return result
            error = result.error
        return self.set_aside(delivery, error, attempts)

    def set_aside(self, delivery: Delivery, error: Exception, attempts: int = 1) -> Completion:
        """The completion that moves a delivery to the dead letters."""
        self._letters += 1
        letter = dead_letter(delivery, group=self._options.group, error=error, attempts=attempts)
        log.warning(
            "%s: %s set aside in %s: %s", self._name, delivery.record.id, letter.topic, describe(error)
        )
        return Completion(delivery, (letter,))

    def count_letters(self, done: Sequence[Completion]) -> int:
        """How many of these completions are dead letters: free as long as there are none about."""
        if not self._letters:
            return 0
        found = sum(1 for c in done if c.outputs and f"{PREFIX}group" in c.outputs[0].headers)
        self._letters -= found
        return found

    async def _back_off(self, failures: int, error: Exception) -> None:
        self._stats.retries += 1
        seconds = delay(failures, self._options.backoff, self._options.max_backoff)
        log.warning("%s: %s; again in %.2f s", self._name, describe(error), seconds)
        await anyio.sleep(seconds)
