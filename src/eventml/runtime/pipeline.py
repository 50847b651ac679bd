"""One handler at work: receive and decode, call, complete, as three overlapping stages.

    receive ──► Intake ──► call ──► hand-off of one batch ──► complete
    (decode)   (≤ 2 batches)  (model)                          (outputs and acks)

While the model computes batch N, batch N+1 is received and decoded and batch N-1 completed. Each
stage is first in, first out, so order is kept; each hand-off is bounded, so a slow handler slows the
receive and memory stays flat.
"""

from __future__ import annotations

import logging
from operator import attrgetter
from typing import TYPE_CHECKING

import anyio

from eventml.backends.base import Completion
from eventml.errors import BackendError, DecodeError, PublishError, UnavailableError
from eventml.runtime.failures import Failed, Held, delay, describe
from eventml.runtime.intake import Intake
from eventml.runtime.parking import Item
from eventml.runtime.recovery import Recovery
from eventml.runtime.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from eventml.backends.base import Subscription
    from eventml.codec import Decoder
    from eventml.handlers import Handler
    from eventml.runtime.calling import Caller
    from eventml.runtime.outputs import Outputs
    from eventml.runtime.stats import Stats

log = logging.getLogger("eventml")

_OUTPUTS_OF, _DELIVERY_OF = attrgetter("outputs"), attrgetter("delivery")
_LONGEST_WAIT = 5.0  # seconds between two attempts to reach a broker


class Pipeline:
    """The stages of one handler over one subscription.

    Args:
        handler: What runs.
        subscription: Where its deliveries come from and its completions go.
        decoder: Of its events.
        caller: Calls it.
        outputs: Makes records of what it returned; None for a consumer.
        stats: Its counters.
        ordered: Whether an event that is tried again holds back those of its key.
    """

    def __init__(
        self,
        handler: Handler,
        subscription: Subscription,
        *,
        decoder: Decoder,
        caller: Caller,
        outputs: Outputs | None,
        stats: Stats,
        ordered: bool,
    ) -> None:
        self._handler = handler
        self._subscription = subscription
        self._decoder = decoder
        self._caller = caller
        self._outputs = outputs
        self._stats = stats
        self._recovery = Recovery(
            self._call, name=handler.name, options=handler.options, stats=stats, ordered=ordered
        )
        self._parking = self._recovery.parking

    async def run(self, stop: anyio.Event) -> None:
        """Work until `stop` is set, then finish what is in hand and return."""
        options = self._handler.options
        intake: Intake[Item] = Intake(options.max_batch, options.max_wait)
        send, receive = anyio.create_memory_object_stream[list[Completion]](max_buffer_size=1)
        async with task_group() as stages:
            stages.start_soon(self._receive_until, stop, intake)
            stages.start_soon(self._call_all, intake, send)
            stages.start_soon(self._complete_all, receive)

    async def _receive_until(self, stop: anyio.Event, intake: Intake[Item]) -> None:
        async with task_group() as tasks:
            tasks.start_soon(self._receive_all, intake)
            await stop.wait()
            tasks.cancel_scope.cancel()
        intake.close()

    async def _receive_all(self, intake: Intake[Item]) -> None:
        failures = 0
        while True:
            await intake.room()
            try:
                deliveries = await self._subscription.receive(self._handler.options.max_batch)
            except UnavailableError as exc:
                failures += 1
                await self._wait_for_broker(failures, exc)
                continue
            failures = 0
            self._stats.arrived(len(deliveries))
            intake.put(list(map(Item, deliveries, self._decoder.decode(deliveries))))

    async def _call_all(
        self, intake: Intake[Item], completions: MemoryObjectSendStream[list[Completion]]
    ) -> None:
        async with completions:
            while True:
                batch = await self._next_batch(intake)
                if not batch and intake.drained and not self._parking:
                    return
                done = await self._recovery.retry() + await self._process(batch)
                if done:
                    await completions.send(done)

    async def _next_batch(self, intake: Intake[Item]) -> list[Item]:
        """What waits to be called; nothing if a parked event's time comes first.

        While as much is parked as a batch may hold, nothing new is taken: memory stays flat.
        """
        if self._parking.next_due is None:
            return await intake.take()
        with anyio.move_on_at(self._parking.next_due):
            if len(self._parking) < self._handler.options.max_batch and not intake.drained:
                return await intake.take()
            await anyio.sleep_forever()
        return []

    async def _process(self, batch: Sequence[Item]) -> list[Completion]:
        if DecodeError not in {type(item.event) for item in batch}:
            return await self._recovery.answer(batch)
        bad = [item for item in batch if isinstance(item.event, DecodeError)]
        good = [item for item in batch if not isinstance(item.event, DecodeError)]
        set_aside = [self._recovery.set_aside(item.delivery, item.event) for item in bad]
        return set_aside + await self._recovery.answer(good)

    async def _call(self, items: Sequence[Item]) -> list[Completion | Failed | Held]:
        """Call the handler once, and make completions of what it returns."""
        self._stats.calls += 1
        outputs = await self._caller.call(items)
        deliveries = [item.delivery for item in items]
        if self._outputs is not None:
            if self._handler.batched:
                return list[Completion | Failed | Held](self._outputs.completions(deliveries, outputs))
            return self._outputs.each(deliveries, outputs)
        if self._handler.batched:
            return [Completion(delivery) for delivery in deliveries]
        return [
            output if isinstance(output, Failed | Held) else Completion(delivery)
            for delivery, output in zip(deliveries, outputs, strict=True)
        ]

    async def _complete_all(self, completions: MemoryObjectReceiveStream[list[Completion]]) -> None:
        async with completions:
            async for done in completions:
                await self._complete(done)

    async def _complete(self, done: list[Completion]) -> None:
        """Complete a batch, however long the broker takes to come back: nothing is dropped meanwhile."""
        failures = 0
        while done:
            try:
                await self._subscription.complete(done)
            except BackendError as exc:
                refused = exc.failed if isinstance(exc, PublishError) else {}
                if refused:
                    self._count([c for position, c in enumerate(done) if position not in refused])
                    done = [self._refused(done[position], why) for position, why in refused.items()]
                failures += 1
                await self._wait_for_broker(failures, exc)
            else:
                self._count(done)
                return

    def _refused(self, completion: Completion, why: str) -> Completion:
        """The broker will not have this output (it is too large, say): set its input aside instead."""
        return self._recovery.set_aside(completion.delivery, PublishError(why))

    def _count(self, done: list[Completion]) -> None:
        outputs = sum(map(len, map(_OUTPUTS_OF, done)))
        letters = self._recovery.count_letters(done)
        deliveries = list(map(_DELIVERY_OF, done))
        self._stats.finished(deliveries, published=outputs - letters, dead_letters=letters)

    async def _wait_for_broker(self, failures: int, error: Exception) -> None:
        seconds = delay(failures, 0.1, _LONGEST_WAIT)
        log.warning("%s: %s; again in %.2f s", self._handler.name, describe(error), seconds)
        await anyio.sleep(seconds)
