"""The pipeline of one handler: three overlapping stages that receive, call and complete.

    receive, decode ──► Intake ──► dedupe, screen, poison, staleness, retry ──► one batch ──► complete
                      (≤ 2 batches)         around the call                   (outputs and acks)

While the model computes batch N, batch N+1 is received and decoded, and batch N-1 completed. Each stage is
first in, first out, so order is kept; of concurrent calls only that of each key. Each buffer is bounded, so a
slow handler slows the receive and memory stays flat. Each step is a class of its own file. Most batches have
neither undecodable nor replayed nor redelivered records, and skip the steps `screen` and `poison`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Final, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from eventml.backends.base import Completion, DedupeSubscription, Subscription
from eventml.codec import Decoder
from eventml.errors import BackendError, DecodeError, HandlerExitError, PublishError, TopicNotFoundError
from eventml.handlers import Handler
from eventml.printable import cut
from eventml.records import REPLAY_GROUP, TOMBSTONE, Delivery
from eventml.runtime.calls.caller import Item
from eventml.runtime.calls.concurrency import ConcurrentCalls
from eventml.runtime.dedupe import Dedupe
from eventml.runtime.failures.circuit_breaker import CircuitBreaker, StoppedError
from eventml.runtime.failures.exceptions import task_group
from eventml.runtime.failures.failure_log import FailureLog
from eventml.runtime.failures.outages import BrokerRetry
from eventml.runtime.failures.poison import crash_loop_error, split
from eventml.runtime.failures.retry import Retry
from eventml.runtime.intake import Intake
from eventml.runtime.replies import Replies
from eventml.runtime.stats import Stats

log = logging.getLogger("eventml")

_NULLS: Final = (TOMBSTONE, b"null", b"\xc0")  # no value, JSON's null and MessagePack's

_outputs_of, _attempt_of = attrgetter("outputs"), attrgetter("attempt")


class Pipeline:
    """Runs one handler over one subscription.

    Args:
        retry: Calls the handler. It has the retry queue and writes the dead letters.
        concurrent: Makes concurrent calls by `retry`; None if a batch is called for as one.
        max_bytes: The most bytes that one `receive` of the subscription returns.
        replies: Replies to requests; None if the handler is a consumer.
    """

    def __init__(
        self,
        handler: Handler,
        subscription: Subscription,
        *,
        decoder: Decoder,
        retry: Retry,
        concurrent: ConcurrentCalls | None,
        stats: Stats,
        max_bytes: int,
        replies: Replies | None = None,
    ) -> None:
        self._name = handler.name
        self._max_batch = handler.max_batch
        self._subscription = subscription
        self._decoder = decoder
        self._group = handler.options.group
        self._skips_replayed = handler.options.skip_replayed
        self._skips_tombstones = handler.options.skip_tombstones
        self._retry = retry
        self._concurrent = concurrent
        self._first = retry if concurrent is None else concurrent
        self._max_deliveries = handler.options.max_deliveries
        self._stats = stats
        self._dedupe: Dedupe | None = None
        if handler.options.dedupe_window is not None:
            self._dedupe = Dedupe(cast("DedupeSubscription", subscription), handler, stats)
        self._replies = replies
        self._breaker = CircuitBreaker(
            handler, stats, self._call_again, dead_letters=retry.dead_letters, ordered=retry.ordered
        )
        level = retry.log_level if retry.keeps_dead_letters else logging.WARNING
        self._failures = FailureLog(self._name, level, dead_letters=retry.keeps_dead_letters)
        self._stop = anyio.Event()
        self._completing = BrokerRetry(self._name, "complete", stats)
        self._intake: Intake[Item] = Intake(self._max_batch, max_bytes)
        self._uncompleted = 0  # batches that were processed and not completed
        self._all_completed: anyio.Event | None = None  # exists only while a task waits for it

    async def run(self, stop: anyio.Event) -> None:
        """Work until `stop` is set, then finish the events in flight and return."""
        self._stop = stop
        send, receive = anyio.create_memory_object_stream[list[Completion]](max_buffer_size=1)
        try:
            async with task_group() as tasks:
                tasks.start_soon(self._failures.run)
                async with task_group() as stages:
                    stages.start_soon(self._receive_until, stop)
                    stages.start_soon(self._process_all, send)
                    stages.start_soon(self._complete_all, receive)
                tasks.cancel_scope.cancel()
        finally:
            self._failures.flush()
        if not stop.is_set():
            raise HandlerExitError(f"{self._name} cancelled the task that had called it, and so its worker")

    # The first stage: receive and decode

    async def _receive_until(self, stop: anyio.Event) -> None:
        async with task_group() as tasks:
            tasks.start_soon(self._receive_all)
            await stop.wait()
            tasks.cancel_scope.cancel()
        self._intake.close()

    async def _receive_all(self) -> None:
        retry = BrokerRetry(self._name, "receive", self._stats)
        while True:
            await self._intake.room()
            try:
                with self._stats.timed("receive"):
                    deliveries = await self._subscription.receive(self._max_batch)
            except TopicNotFoundError:
                raise  # it was deleted: waiting does not bring it back
            except BackendError as exc:
                await retry.wait(exc)
                continue
            retry.succeeded()
            if not deliveries:  # after an outage: the broker can be read again
                continue
            self._stats.arrived(len(deliveries))
            with self._stats.timed("decode"):
                events, errors, all_headers = self._decoder.decode_batch(deliveries)
            self._intake.in_flight.add(deliveries, all_headers)
            if self._replies is not None:
                self._replies.expect(deliveries, all_headers)
            unusual = (
                errors > 0
                or self._skips_tombstones
                or set(map(_attempt_of, deliveries)) != {1}
                or any(REPLAY_GROUP in headers for headers in all_headers)
            )
            self._intake.put(list(map(Item, deliveries, events)), screen=unusual)

    # The second stage: process

    async def _process_all(self, completions: MemoryObjectSendStream[list[Completion]]) -> None:
        async with completions, task_group() as tasks:
            if self._concurrent is not None:
                self._concurrent.start(tasks, partial(self._send, completions))
            with suppress(StoppedError):  # the events that are kept back return to the group
                await self._process_until_drained(completions)
            if self._concurrent is not None:
                await self._concurrent.finished()
            tasks.cancel_scope.cancel()

    async def _process_until_drained(self, completions: MemoryObjectSendStream[list[Completion]]) -> None:
        while True:
            items: Sequence[Item]
            items, screen = await self._next_batch()
            if not items and self._intake.drained and not self._waiting:
                return
            await self._send(completions, await self._retry.process_due())
            if self._dedupe is not None and items:
                items, duplicates = await self._dedupe.remove_duplicates(items)
                await self._send(completions, duplicates)
            if not items:
                continue
            if not screen:
                await self._send(completions, await self._first.process(items))
                continue
            await self._process_unusual(completions, items)

    async def _process_unusual(
        self, completions: MemoryObjectSendStream[list[Completion]], items: Sequence[Item]
    ) -> None:
        """Process a batch with undecodable, replayed or redelivered records."""
        items, done = self._screen(items)
        await self._send(completions, done)
        for part in split(items, self._max_deliveries):
            if part.poison:
                write = self._retry.dead_letters.write
                done = list[Completion](write(item.delivery, crash_loop_error(item)) for item in part.items)
            else:
                done = await self._first.process(part.items)
            await self._send(completions, done)
            while part.complete_first and self._unfinished:
                await self._until_all_completed()

    def _screen(self, items: Sequence[Item]) -> tuple[list[Item], list[Completion]]:
        """The events of a batch to call, and the completions of the other records.

        An undecodable record becomes a dead letter. A dead letter that was replayed for another group is
        completed, unless `skip_replayed` is off: this group has handled it. Every publisher of the topic can
        set that header, so such records are counted, and each batch with any is logged.
        """
        events: list[Item] = []
        completions: list[Completion] = []
        skipped: list[Item] = []
        for item in items:
            replayed_for = item.delivery.record.headers.get(REPLAY_GROUP, self._group)
            if self._skips_replayed and replayed_for != self._group:
                completions.append(Completion(item.delivery))
                skipped.append(item)
            elif self._skips_tombstones and item.delivery.record.value in _NULLS:
                completions.append(Completion(item.delivery))
            elif isinstance(item.event, DecodeError):
                completions.append(self._retry.dead_letters.write(item.delivery, item.event))
            else:
                events.append(item)
        if skipped:
            self._stats.skipped += len(skipped)
            first = skipped[0].delivery.record
            text = "%s: %d records skipped: replayed for another group, by their header %s; first: %r for %r"
            names = cut(first.id), cut(first.headers[REPLAY_GROUP])
            log.info(text, self._name, len(skipped), REPLAY_GROUP, *names)
        return events, completions

    @property
    def _waiting(self) -> int:
        """How many events wait: for a retry, or as duplicates of an event in flight."""
        return len(self._retry.queue) + (0 if self._dedupe is None else self._dedupe.waiting)

    async def _next_batch(self) -> tuple[list[Item], bool]:
        """The next batch; an empty one if an event in the retry queue is due first, or duplicates are
        released.

        While as many events wait as a batch may hold, no new ones are taken: memory stays flat.
        """
        full = self._waiting >= self._max_batch
        duplicates_wait = self._dedupe is not None and self._dedupe.waiting
        if duplicates_wait and self._unfinished and (full or self._intake.drained):
            await self._until_all_completed()
            return [], False
        if self._retry.queue.next_due is None:
            return await self._intake.take()
        with anyio.move_on_at(self._retry.queue.next_due):
            if not full and not self._intake.drained:
                return await self._intake.take()
            await anyio.sleep_forever()
        return [], False

    async def _send(
        self, completions: MemoryObjectSendStream[list[Completion]], batch: list[Completion]
    ) -> None:
        """Send completions to the third stage; those that the circuit breaker keeps back once it closes.

        Raises:
            StoppedError: the worker was stopped before that.
        """
        while batch:
            kept: list[Completion] = []
            if self._retry.dead_letters.uncounted:
                batch, kept = self._breaker.split(batch)
                self._failures.add(batch)
            else:
                self._breaker.succeeded(len(batch))
            if batch:
                self._uncompleted += 1
                await completions.send(batch)
            batch = await self._breaker.until_closed(kept, self._stop) if kept else []

    async def _call_again(self, deliveries: Sequence[Delivery]) -> list[Completion]:
        """The completions of deliveries that were called before."""
        events = self._decoder.decode_batch(deliveries).events
        items, completions = self._screen(list(map(Item, deliveries, events)))
        if self._concurrent is not None:
            return completions + await self._concurrent.call_again(items)
        for part in split(items, self._max_deliveries):
            completions += await self._retry.process_all(part.items)
        return completions

    @property
    def _unfinished(self) -> int:
        """How many batches are in process or not yet completed; each concurrent call counts as one."""
        return self._uncompleted + (0 if self._concurrent is None else self._concurrent.in_process)

    async def _until_all_completed(self) -> None:
        if self._concurrent is not None:
            await self._concurrent.finished()
            if not self._uncompleted:
                return
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
        lost, batch = self._retry.calls.split_lost(batch)
        if lost:
            self._count(lost)
        while batch:
            try:
                with self._stats.timed("complete"):
                    await complete(batch)
            except BackendError as exc:
                refused = exc.failed if isinstance(exc, PublishError) else {}
                if refused:
                    self._count([c for position, c in enumerate(batch) if position not in refused])
                    dead_letters = self._retry.dead_letters
                    batch = [dead_letters.replace(batch[p], reason) for p, reason in refused.items()]
                await self._completing.wait(exc)
            else:
                self._completing.succeeded()
                self._count(batch)
                return

    def _count(self, completed: list[Completion]) -> None:
        self._intake.completed(completion.delivery for completion in completed)
        outputs = sum(map(len, map(_outputs_of, completed)))
        failed = self._retry.dead_letters.count(completed)
        dead_letters = failed if self._retry.keeps_dead_letters else 0
        self._stats.finished(completed, published=outputs - failed, dead_letters=dead_letters)
        self._stats.failed += failed - dead_letters
