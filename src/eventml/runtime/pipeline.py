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
from eventml.errors import BackendError, PublishError, UnavailableError
from eventml.runtime.failures import backoff_delay, describe
from eventml.runtime.intake import Intake
from eventml.runtime.items import Item
from eventml.runtime.repeats import Repeats, pass_over, remembered
from eventml.runtime.suspects import Step, Suspects
from eventml.runtime.tasks import task_group

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from eventml.backends.base import DedupeSubscription, Subscription
    from eventml.codec import Decoder
    from eventml.handlers import Handler
    from eventml.runtime.answering import BatchProcessor
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
        answering: Turns a batch into completions.
        stats: Its counters.
        once: The subscription again, where it is to be asked which ids were finished before.
    """

    def __init__(
        self,
        handler: Handler,
        subscription: Subscription,
        *,
        decoder: Decoder,
        answering: BatchProcessor,
        stats: Stats,
        once: DedupeSubscription | None = None,
    ) -> None:
        self._handler = handler
        self._subscription = subscription
        self._decoder = decoder
        self._answering = answering
        self._stats = stats
        self._recovery = answering.recovery
        self._parking = answering.recovery.parking
        self._once = once
        self._repeats = Repeats()
        self._odd_until = 0  # of all that was received, where the last one lies that needs a closer look
        self._taken = 0
        self._unsettled = 0
        self._settled: anyio.Event | None = None  # there is one while somebody waits for it

    async def run(self, stop: anyio.Event) -> None:
        """Work until `stop` is set, then finish what is in hand and return."""
        options = self._handler.options
        intake: Intake[Item] = Intake(self._handler.max_batch, options.max_wait)
        send, receive = anyio.create_memory_object_stream[list[Completion]](max_buffer_size=1)
        async with task_group() as stages:
            stages.start_soon(self._receive_until, stop, intake)
            stages.start_soon(self._call_all, intake, send)
            stages.start_soon(self._complete_all, receive, intake)

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
                with self._stats.timed("receive"):
                    deliveries = await self._subscription.receive(self._handler.max_batch)
            except UnavailableError as exc:
                failures += 1
                await self._wait_for_broker(failures, exc)
                continue
            failures = 0
            self._stats.arrived(len(deliveries))
            without_event = self._decoder.without_event
            with self._stats.timed("decode"):
                events = self._decoder.decode(deliveries)
            if self._decoder.without_event != without_event or {d.attempt for d in deliveries} != {1}:
                self._odd_until = self._stats.received
            intake.put(list(map(Item, deliveries, events)))

    async def _call_all(
        self, intake: Intake[Item], completions: MemoryObjectSendStream[list[Completion]]
    ) -> None:
        suspects = Suspects(self._handler.options.max_deliveries)
        async with completions:
            while True:
                batch = await self._next_batch(intake)
                if not batch and intake.drained and not self._parking and not self._repeats.waiting:
                    return
                await self._hand_on(completions, await self._recovery.retry())
                odd, self._taken = self._taken < self._odd_until, self._taken + len(batch)
                if self._once is not None and batch:
                    batch, passed = await self._pass_over(self._once, batch)
                    await self._hand_on(completions, passed)
                for step in suspects.steps(batch) if odd else (Step(batch, plain=True),):
                    await self._hand_on(completions, await self._answering.answer(step))
                    while step.settle and self._unsettled:
                        await self._until_settled()

    async def _pass_over(
        self, once: DedupeSubscription, batch: list[Item]
    ) -> tuple[list[Item], list[Completion]]:
        """Those to be called, and completions of those whose ids were finished before."""
        first = self._repeats.hold_back(batch)
        failures = 0
        while first:
            try:
                finished = await once.completed_before([item.delivery for item in first])
            except UnavailableError as exc:
                failures += 1
                await self._wait_for_broker(failures, exc)
            else:
                called, passed = pass_over(first, finished)
                self._stats.duplicates += len(passed)
                return called, passed
        return [], []

    async def _until_settled(self) -> None:
        if self._settled is None:
            self._settled = anyio.Event()
        await self._settled.wait()

    async def _hand_on(
        self, completions: MemoryObjectSendStream[list[Completion]], done: list[Completion]
    ) -> None:
        if done:
            self._unsettled += 1
            await completions.send(done)

    async def _next_batch(self, intake: Intake[Item]) -> list[Item]:
        """What waits to be called; nothing if a parked event's time comes first, or repeats' firsts are done.

        While as much is put off as a batch may hold, nothing new is taken: memory stays flat.
        """
        put_off = len(self._parking) + self._repeats.waiting
        full = put_off >= self._handler.max_batch
        if self._repeats.waiting and self._unsettled and (full or intake.drained):
            await self._until_settled()
            return []
        if self._parking.next_due is None:
            return await intake.take()
        with anyio.move_on_at(self._parking.next_due):
            if not full and not intake.drained:
                return await intake.take()
            await anyio.sleep_forever()
        return []

    async def _complete_all(
        self, completions: MemoryObjectReceiveStream[list[Completion]], intake: Intake[Item]
    ) -> None:
        async with completions:
            async for done in completions:
                if self._once is None:
                    await self._complete(done)
                else:
                    await self._complete(remembered(done, self._handler.options.group))
                    self._take_in_again(self._repeats.settle(done), intake)
                self._unsettled -= 1
                if not self._unsettled and self._settled is not None:
                    self._settled.set()
                    self._settled = None

    def _take_in_again(self, repeats: list[Item], intake: Intake[Item]) -> None:
        """What waited for its first: the broker is asked again."""
        if repeats:
            self._odd_until = self._stats.received  # some of them may need a closer look
            self._taken -= len(repeats)
            intake.put(repeats)

    async def _complete(self, done: list[Completion]) -> None:
        """Complete a batch, however long the broker takes to come back: nothing is dropped meanwhile."""
        failures = 0
        while done:
            try:
                with self._stats.timed("complete"):
                    await self._subscription.complete(done)
            except BackendError as exc:
                refused = exc.failed if isinstance(exc, PublishError) else {}
                if refused:
                    self._count([c for position, c in enumerate(done) if position not in refused])
                    done = [self._recovery.refused(done[position], why) for position, why in refused.items()]
                failures += 1
                await self._wait_for_broker(failures, exc)
            else:
                self._count(done)
                return

    def _count(self, done: list[Completion]) -> None:
        outputs = sum(map(len, map(_OUTPUTS_OF, done)))
        letters = self._recovery.count_letters(done)
        deliveries = list(map(_DELIVERY_OF, done))
        self._stats.finished(deliveries, published=outputs - letters, dead_letters=letters)

    async def _wait_for_broker(self, failures: int, error: Exception) -> None:
        seconds = backoff_delay(failures, 0.1, _LONGEST_WAIT)
        log.warning("%s: %s; again in %.2f s", self._handler.name, describe(error), seconds)
        await anyio.sleep(seconds)
