"""Calling a handler: batches or single events, awaited or in a thread, within its timeout.

`Caller` is the call alone, which batch jobs make too; for a stream `handler_call.py` checks and encodes too.

A plain function runs in a thread, so that the event loop never waits for a model: heartbeats, lease renewals
and drains go on meanwhile. One call of it at a time, unless `concurrency` is set: threads inside a model slow
a stream down, and more workers help it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from functools import partial
from threading import Event
from typing import Any

import anyio
import msgspec
from anyio import CapacityLimiter, Semaphore, WouldBlock, to_thread

from eventml.errors import HandlerExitError, HandlerTimeoutError
from eventml.frames import FrameBuilder, FrameType
from eventml.handlers import Handler
from eventml.models import single_threaded
from eventml.records import Delivery
from eventml.runtime.failures.classification import NOT_CALLED, Failed, should_retry
from eventml.runtime.failures.exceptions import task_group
from eventml.runtime.stats import Stats

log = logging.getLogger("eventml")


class Item(msgspec.Struct, frozen=True, gc=False):
    """A delivery and its decoded event, or the DecodeError of a record that could not be decoded."""

    delivery: Delivery
    event: Any


class Caller:
    """Calls one handler with its model and resources.

    Args:
        resources: The handler's model and its lifespans' values, by parameter name.
        ordered: Whether order per key is kept: an event of a handler of single events is not called behind a
            failed one of its key that will be tried again.
        stats: Counts the threads that were abandoned.
    """

    def __init__(
        self, handler: Handler, resources: Mapping[str, Any], *, ordered: bool, stats: Stats
    ) -> None:
        self._handler = handler
        self._stats = stats
        self._function = _prepared(handler, resources)
        self._limits_threads = handler.model is not None and not getattr(handler.model, "keep_threads", False)
        self._threads = CapacityLimiter(handler.concurrency)
        self._free = Semaphore(handler.concurrency, fast_acquire=True)
        self._ordered = ordered
        self._all_in_a_thread = (
            not handler.is_async and handler.options.timeout is None and handler.concurrency == 1
        )

    def with_resources(self, resources: Mapping[str, Any]) -> Caller:
        """A caller with other resources. Both share one limit of calls in threads."""
        other = copy(self)
        other._function = _prepared(self._handler, resources)  # noqa: SLF001 - of the same class
        return other

    async def call(self, items: Sequence[Item]) -> Any:
        """The outputs for a batch.

        Those of a handler of single events are a list, with `Failed` in the place of each event that failed:
        `NOT_CALLED` if it was not called, because an earlier event of its key had failed.

        Raises:
            Exception: the whole batch failed: whatever a handler of batches raises.
            HandlerTimeoutError: a handler of batches ran past its timeout.
            HandlerExitError: a handler of batches raised an exception that would have ended the worker.
        """
        if self._handler.batched:
            return await self.call_whole([item.event for item in items], [item.delivery for item in items])
        if len(items) == 1 and not self._all_in_a_thread:
            return [await self._attempt(items[0])]
        keys = [item.delivery.record.key or None if self._ordered else None for item in items]
        if self._all_in_a_thread:
            return await self._in_thread(partial(self._call_here, keys), items)
        outputs: list[Any] = [None] * len(items)

        async def call_in_turn(positions: Sequence[int]) -> None:
            failed: Any = None
            for position in positions:
                outputs[position] = NOT_CALLED if failed else await self._attempt(items[position])
                failed = failed or self._holds_back(outputs[position])

        by_key: dict[object, list[int]] = {}
        for position, key in enumerate(keys):
            by_key.setdefault(position if key is None else key, []).append(position)
        async with task_group() as tasks:
            for positions in by_key.values():
                tasks.start_soon(call_in_turn, positions)
        return outputs

    # Single events

    def _call_here(self, keys: Sequence[bytes | None], items: Sequence[Item]) -> list[Any]:
        """Call for each event in this thread: an await for each event would cost as much as most calls."""
        function, outputs = self._function, list[Any]()
        with_delivery = self._handler.metadata is not None
        held_back: set[bytes | None] = set()
        for item, key in zip(items, keys, strict=True):
            try:
                if key in held_back:
                    outputs.append(NOT_CALLED)
                else:
                    outputs.append(function((item.event, item.delivery) if with_delivery else item.event))
            except BaseException as exc:  # noqa: BLE001 - a handler may raise anything, and may exit
                outputs.append(Failed(exc if isinstance(exc, Exception) else self._exit_error(exc)))
                if key and self._holds_back(outputs[-1]):
                    held_back.add(key)
        return outputs

    def _holds_back(self, output: Any) -> bool:
        """Whether an event has failed and will be tried again, so that those of its key wait."""
        return isinstance(output, Failed) and should_retry(output.error, 1, self._handler.options)

    async def _attempt(self, item: Item) -> Any:
        try:
            self._free.acquire_nowait()  # `acquire` asks all cancel scopes, which costs as much as a call
        except WouldBlock:
            await self._free.acquire()
        try:
            return await self.call_whole(item.event, item.delivery)
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            return Failed(exc)
        finally:
            self._free.release()

    # One call

    async def call_whole(self, argument: Any, deliveries: Delivery | Sequence[Delivery]) -> Any:
        """Call the handler's function once, within its timeout.

        Args:
            argument: A single event, a list of events, or, for a function of frames, a table that
                `frames.cast_table` has made, or some of its rows.
            deliveries: The delivery of the event, or those of the events.

        Raises:
            Exception: as `call` does.
        """
        if self._handler.metadata is not None:
            argument = argument, deliveries
        seconds = self._handler.options.timeout
        if seconds is None:
            return await self._call_function(self._function, argument)
        ended = Event()
        function = self._function if self._handler.is_async else partial(_set_at_end, ended, self._function)
        with anyio.move_on_after(seconds):
            return await self._call_function(function, argument)
        if not self._handler.is_async:
            # The abandoned thread keeps its place in the limiter until it ends, if it ever does: use another
            # limiter.
            self._threads = CapacityLimiter(self._handler.concurrency)
            self._stats.abandon_thread(ended)
            log.error(
                "%s: a call ran past its timeout of %g s; its thread cannot be stopped and was replaced by "
                "another (%d so far). Until it ends by itself it holds memory, and a core if it is busy",
                self._handler.name,
                seconds,
                self._stats.abandoned,
            )
        name = self._handler.name
        raise HandlerTimeoutError(
            f"{name} ran past its timeout of {seconds:g} s; make it faster, lower consumer.{name}.max_batch, "
            f"or raise consumer.{name}.timeout"
        )

    async def _call_function(self, function: Any, argument: Any) -> Any:
        if self._handler.is_async:
            return await self._survive(function(argument))
        return await self._in_thread(function, argument)

    async def _in_thread(self, function: Any, argument: Any) -> Any:
        if self._limits_threads:
            function = partial(_single_threaded, function)
        call = to_thread.run_sync(function, argument, abandon_on_cancel=True, limiter=self._threads)
        return await self._survive(call)

    async def _survive(self, call: Awaitable[Any]) -> Any:
        """The result of a call; an exception that would end the worker becomes a HandlerExitError."""
        try:
            return await call
        except Exception:
            raise
        except BaseException as exc:
            if _is_from_outside(exc):
                raise
            raise self._exit_error(exc) from exc

    def _exit_error(self, error: BaseException) -> HandlerExitError:
        name = type(error).__name__
        return HandlerExitError(f"{self._handler.name} raised {name}, which would have ended its worker")


def _prepared(handler: Handler, resources: Mapping[str, Any]) -> Callable[..., Any]:
    """The handler's function with its resources, as a function of events, or of events and deliveries."""
    function = partial(handler.function, **resources) if resources else handler.function
    if handler.frame is not None:
        function = _with_frames(handler.frame, function, is_async=handler.is_async)
    if handler.metadata is not None:
        function = partial(_with_deliveries, function, handler.metadata)
    return function


def _with_frames(frame: FrameType, function: Callable[..., Any], *, is_async: bool) -> Callable[[Any], Any]:
    """Make a function of events of a function of frames. The frame is built off the event loop."""
    framer = FrameBuilder(frame)

    def frame_of(events: Any) -> Any:
        return framer.from_events(events) if isinstance(events, list) else framer.from_table(events)

    async def call_async(events: Any, **deliveries: Any) -> Any:
        return await function(await to_thread.run_sync(frame_of, events), **deliveries)

    def call(events: Any, **deliveries: Any) -> Any:
        return function(frame_of(events), **deliveries)

    return call_async if is_async else call


def _with_deliveries(function: Callable[..., Any], name: str, argument: tuple[Any, Any]) -> Any:
    """Call a function with events, or an event, and with their deliveries by name."""
    events, deliveries = argument
    return function(events, **{name: deliveries})


def _single_threaded(function: Any, argument: Any) -> Any:
    """Call with numeric libraries limited to one thread, which is a setting of the calling thread."""
    single_threaded()
    return function(argument)


def _set_at_end(ended: Event, function: Any, argument: Any) -> Any:
    """Call, and set `ended` when the call is over, even if its caller no longer waits."""
    try:
        return function(argument)
    finally:
        ended.set()


def _is_from_outside(exception: BaseException) -> bool:
    """Whether an exception is a cancellation or an interrupt of the worker, and not the handler's own."""
    if isinstance(exception, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    # Trio's cancellation cannot be raised by a handler.
    return isinstance(exception, KeyboardInterrupt | GeneratorExit | anyio.get_cancelled_exc_class())
