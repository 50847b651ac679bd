"""From a batch to completions: what is bad or stale is set aside, the rest is called for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, cast

from eventml.backends.base import Completion
from eventml.codec import NotOurs
from eventml.errors import DecodeError
from eventml.runtime.items import Deferred, Failed
from eventml.runtime.recovery import Recovery
from eventml.runtime.staleness import split_stale, too_old
from eventml.runtime.suspects import crash_loop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.handlers import Handler
    from eventml.runtime.calling import Caller
    from eventml.runtime.items import Item
    from eventml.runtime.outputs import Outputs
    from eventml.runtime.stats import Stats
    from eventml.runtime.suspects import Step
    from eventml.runtime.tracing import HandlerTracing

_NO_EVENTS: Final = {DecodeError, NotOurs}


class BatchProcessor:
    """Answers one handler's batches.

    Args:
        handler: Whose.
        caller: Calls it.
        outputs: Makes records of what it returned; None for a consumer.
        stats: Its counters.
        ordered: Whether an event that is tried again holds back those of its key.
        interactive: Somebody waits for each answer; see `Recovery`.
        tracing: Is told of each call and each dead letter; None where nobody is.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        caller: Caller,
        outputs: Outputs | None,
        stats: Stats,
        ordered: bool,
        interactive: bool = False,
        tracing: HandlerTracing | None = None,
    ) -> None:
        self._handler = handler
        self._caller = caller
        self._outputs = outputs
        self._stats = stats
        self._tracing = tracing
        self.recovery = Recovery(
            self._call,
            name=handler.name,
            options=handler.options,
            stats=stats,
            ordered=ordered,
            apart=not handler.batched,
            interactive=interactive,
            tracing=tracing,
        )

    async def answer(self, step: Step) -> list[Completion]:
        """Completions of all that is finished with; what must be tried again is parked."""
        items, done = (step.items, []) if step.plain else self._screen(step.items)
        if step.condemned:
            return done + [self.recovery.set_aside(item.delivery, crash_loop(item)) for item in items]
        if self._handler.options.max_age is not None:
            items, stale = split_stale(items, self._handler.options.max_age, time.time())
            self._stats.stale += len(stale)
            done += map(self._pass_over, stale)
        if not items:
            return done
        answered = await self.recovery.answer(items)
        return done + answered if done else answered

    def _screen(self, items: Sequence[Item]) -> tuple[Sequence[Item], list[Completion]]:
        """Those that hold an event of ours, and the completions of the others."""
        done = [
            self.recovery.set_aside(item.delivery, item.event)
            if isinstance(item.event, DecodeError)
            else Completion(item.delivery)
            for item in items
            if type(item.event) in _NO_EVENTS
        ]
        return [item for item in items if type(item.event) not in _NO_EVENTS], done

    def _pass_over(self, stale: Item) -> Completion:
        """What becomes of an event that is too old to be worth a call."""
        choice = self._handler.options.when_stale
        if choice == "drop":
            return Completion(stale.delivery)
        result: Completion | Failed = Failed(too_old(stale, time.time()))
        if callable(choice):
            try:
                output = choice(stale.event)
                result = (
                    self._outputs.one(stale.delivery, output) if self._outputs else Completion(stale.delivery)
                )
            except Exception as exc:  # noqa: BLE001 - a fallback may raise anything
                result = Failed(exc)
        return self.recovery.set_aside(stale.delivery, result.error) if isinstance(result, Failed) else result

    async def _call(self, items: Sequence[Item]) -> list[Completion | Failed | Deferred]:
        """Call the handler once, and make completions of what it returns."""
        if self._tracing is None:
            return await self._answered(items)
        with self._tracing.processing([item.delivery.record.headers for item in items]) as failed:
            results = await self._answered(items)
            for result in results:
                if isinstance(result, Failed):
                    failed(result.error)
            return results

    async def _answered(self, items: Sequence[Item]) -> list[Completion | Failed | Deferred]:
        self._stats.calls += 1
        self._stats.batch.add(len(items))
        with self._stats.timed("call"):
            outputs: Any = await self._caller.call(items)
        deliveries = [item.delivery for item in items]
        if self._outputs is not None:
            with self._stats.timed("encode"):
                if self._handler.batched:
                    return cast(
                        "list[Completion | Failed | Deferred]", self._outputs.completions(deliveries, outputs)
                    )
                return self._outputs.each(deliveries, outputs)
        if self._handler.batched:
            return [Completion(delivery) for delivery in deliveries]
        return [
            output if isinstance(output, Failed | Deferred) else Completion(delivery)
            for delivery, output in zip(deliveries, outputs, strict=True)
        ]
