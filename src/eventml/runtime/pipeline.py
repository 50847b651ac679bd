"""The pipeline of one handler: three overlapping stages that receive, call and complete.

    receive, decode ──► Intake ──► process ──► one batch ──► complete
                      (≤ 2 batches)  (the model)            (outputs and acks)

While the model computes batch N, batch N+1 is received and decoded, and batch N-1 completed. Each stage is
first in, first out, so order is kept; each buffer is bounded, so a slow handler slows the receive and memory
stays flat.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import anyio

from eventml.backends.base import Completion, Subscription
from eventml.codec import Decoder
from eventml.errors import BackendError, PublishError, TopicNotFoundError
from eventml.handlers import Handler
from eventml.records import REPLAY_GROUP
from eventml.runtime.batching import Batch, Intake, Item
from eventml.runtime.dedupe import Dedupe
from eventml.runtime.failures import task_group, wait_for_broker
from eventml.runtime.processing import BatchProcessor
from eventml.runtime.replies import Replies
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

_outputs_of, _delivery_of = attrgetter("outputs"), attrgetter("delivery")


class Pipeline:
    """Runs one handler over one subscription.

    Args:
        handler: The handler.
        subscription: Its subscription.
        decoder: Decodes its events.
        processor: Turns batches of events into completions.
        stats: Its counters.
        dedupe: Removes duplicates; None if they are processed like other events.
        replies: Replies to requests; None if the handler is a consumer.
    """

    def __init__(
        self,
        handler: Handler,
        subscription: Subscription,
        *,
        decoder: Decoder,
        processor: BatchProcessor,
        stats: Stats,
        dedupe: Dedupe | None = None,
        replies: Replies | None = None,
    ) -> None:
        self._name = handler.name
        self._max_batch = handler.max_batch
        self._subscription = subscription
        self._decoder = decoder
        self._processor = processor
        self._retry_queue = processor.retry_queue
        self._stats = stats
        self._dedupe = dedupe
        self._replies = replies
        self._intake: Intake[Item] = Intake(self._max_batch, handler.options.max_wait)
        self._uncompleted = 0  # batches that were processed and not completed
        self._all_completed: anyio.Event | None = None  # exists only while a task waits for it

    async def run(self, stop: anyio.Event) -> None:
        """Work until `stop` is set, then finish the events in flight and return."""
        send, receive = anyio.create_memory_object_stream[list[Completion]](max_buffer_size=1)
        async with task_group() as stages:
            stages.start_soon(self._receive_until, stop)
            stages.start_soon(self._process_all, send)
            stages.start_soon(self._complete_all, receive)

    # The first stage: receive and decode

    async def _receive_until(self, stop: anyio.Event) -> None:
        async with task_group() as tasks:
            tasks.start_soon(self._receive_all)
            await stop.wait()
            tasks.cancel_scope.cancel()
        self._intake.close()

    async def _receive_all(self) -> None:
        failures = 0
        while True:
            await self._intake.room()
            try:
                with self._stats.timed("receive"):
                    deliveries = await self._subscription.receive(self._max_batch)
            except TopicNotFoundError:
                raise  # it was deleted: waiting does not bring it back
            except BackendError as exc:
                failures += 1
                await wait_for_broker(self._name, failures, exc)
                continue
            failures = 0
            self._stats.arrived(len(deliveries))
            with self._stats.timed("decode"):
                events, errors, all_headers = self._decoder.decode_batch(deliveries)
            if self._replies is not None:
                self._replies.expect(deliveries, all_headers)
            unusual = (
                errors > 0
                or {delivery.attempt for delivery in deliveries} != {1}
                or any(REPLAY_GROUP in headers for headers in all_headers)
            )
            self._intake.put(list(map(Item, deliveries, events)), screen=unusual)

    # The second stage: process

    async def _process_all(self, completions: MemoryObjectSendStream[list[Completion]]) -> None:
        async with completions:
            while True:
                batch = await self._next_batch()
                if not batch.items and self._intake.drained and not self._waiting:
                    return
                await self._send(completions, await self._processor.process_due())
                items: Sequence[Item] = batch.items
                if self._dedupe is not None and items:
                    items, duplicates = await self._dedupe.remove_duplicates(items)
                    await self._send(completions, duplicates)
                if not items:
                    continue
                if not batch.screened:
                    await self._send(completions, await self._processor.process(items))
                    continue
                items, done = self._processor.screen(items)
                for part in self._processor.split(items):
                    await self._send(completions, done + await self._processor.process_part(part))
                    done = []
                    while part.complete_first and self._uncompleted:
                        await self._until_all_completed()
                await self._send(completions, done)

    @property
    def _waiting(self) -> int:
        """How many events wait in the retry queue, or for the event that they are duplicates of."""
        return len(self._retry_queue) + (0 if self._dedupe is None else self._dedupe.waiting)

    async def _next_batch(self) -> Batch[Item]:
        """The next batch; an empty one if an event in the retry queue is due first, or duplicates are
        released.

        While as many events wait as a batch may hold, no new ones are taken: memory stays flat.
        """
        full = self._waiting >= self._max_batch
        duplicates_wait = self._dedupe is not None and self._dedupe.waiting
        if duplicates_wait and self._uncompleted and (full or self._intake.drained):
            await self._until_all_completed()
            return Batch([])
        if self._retry_queue.next_due is None:
            return await self._intake.take()
        with anyio.move_on_at(self._retry_queue.next_due):
            if not full and not self._intake.drained:
                return await self._intake.take()
            await anyio.sleep_forever()
        return Batch([])

    async def _send(
        self, completions: MemoryObjectSendStream[list[Completion]], batch: list[Completion]
    ) -> None:
        if batch:
            self._uncompleted += 1
            await completions.send(batch)

    async def _until_all_completed(self) -> None:
        if self._all_completed is None:
            self._all_completed = anyio.Event()
        await self._all_completed.wait()

    # The third stage: complete

    async def _complete_all(self, completions: MemoryObjectReceiveStream[list[Completion]]) -> None:
        async with completions:
            async for batch in completions:
                if self._dedupe is None:
                    await self._complete(batch)
                else:
                    await self._complete(self._dedupe.mark(batch))
                    # A duplicate is looked up again, as the event that it waited for is now completed.
                    if released := self._dedupe.release(batch):
                        self._intake.put(released, screen=True)
                self._uncompleted -= 1
                if not self._uncompleted and self._all_completed is not None:
                    self._all_completed.set()
                    self._all_completed = None

    async def _complete(self, batch: list[Completion]) -> None:
        """Complete a batch, however long the broker is unavailable: no completion is dropped."""
        complete = self._subscription.complete if self._replies is None else self._replies.complete
        failures = 0
        while batch:
            try:
                with self._stats.timed("complete"):
                    await complete(batch)
            except BackendError as exc:
                refused = exc.failed if isinstance(exc, PublishError) else {}
                if refused:
                    self._count([c for position, c in enumerate(batch) if position not in refused])
                    dead_letters = self._processor.dead_letters
                    batch = [dead_letters.replace(batch[p], reason) for p, reason in refused.items()]
                failures += 1
                await wait_for_broker(self._name, failures, exc)
            else:
                self._count(batch)
                return

    def _count(self, completed: list[Completion]) -> None:
        outputs = sum(map(len, map(_outputs_of, completed)))
        dead_letters = self._processor.dead_letters.count(completed)
        deliveries = list(map(_delivery_of, completed))
        self._stats.finished(deliveries, published=outputs - dead_letters, dead_letters=dead_letters)
