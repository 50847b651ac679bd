"""Calling a handler: batches or single events, awaited or in a thread, within its timeout.

A plain function runs in a thread, so that the event loop never waits for a model: heartbeats, lease
renewals and drains go on meanwhile. One call at a time: threads inside a model hurt a stream, and
more workers help it.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

import anyio
from anyio import CapacityLimiter, to_thread

from eventml.errors import HandlerExitError, HandlerTimeoutError
from eventml.frames import FrameBuilder
from eventml.models import keeps_threads, single_threaded
from eventml.runtime.failures import should_retry
from eventml.runtime.items import Deferred, Failed
from eventml.runtime.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from eventml.handlers import Handler
    from eventml.runtime.items import Item
    from eventml.runtime.stats import Stats

log = logging.getLogger("eventml")


class Caller:
    """One handler with what it needs, ready to be called.

    Args:
        handler: What to call.
        resources: Its model and its lifespans' values, by parameter name.
        ordered: Whether an event that fails holds back those of its key; single events only. Where it
            is not, and the handler says `ordered=False`, a coroutine runs for many events at once.
        stats: Counts the threads that were given up on.
    """

    def __init__(
        self, handler: Handler, resources: Mapping[str, Any], *, ordered: bool, stats: Stats
    ) -> None:
        self._handler = handler
        self._stats = stats
        function = partial(handler.function, **resources) if resources else handler.function
        self._function = function if handler.frame is None else _framed(handler, function)
        self._timeout = handler.options.timeout
        self._limiter = CapacityLimiter(1)
        self._one_thread = handler.model is not None and not keeps_threads(handler.model)
        self._ordered = ordered
        self._concurrent = handler.options.ordered is False

    async def call(self, items: Sequence[Item]) -> Any:
        """The outputs for a batch.

        From a handler of single events, a list with `Failed` in the place of each that failed, and
        `Held` in the place of each that was not called because its key had failed before it.

        Raises:
            Exception: whatever a handler of batches raises; its whole batch failed.
            HandlerTimeoutError: it ran past its timeout.
            HandlerExitError: it raised what would have ended the worker.
        """
        events = [item.event for item in items]
        if self._handler.batched:
            return await self._within_timeout(events)
        if self._handler.is_async and self._concurrent:
            return await self._together(events)
        keys = [item.delivery.record.key if self._ordered else None for item in items]
        if self._handler.is_async or self._timeout is not None:
            return await self._in_turn(events, keys)
        return await self._in_thread(partial(_each, self._function, keys, self._holds_back), events)

    async def call_whole(self, events: Any) -> Any:
        """What a handler of batches makes of a batch: a list of events, or for one of frames a table.

        The table is one that `frames.cast_table` has made, or some rows of it.

        Raises:
            Exception: as `call` does.
        """
        return await self._within_timeout(events)

    async def _in_turn(self, events: Sequence[Any], keys: Sequence[bytes | None]) -> list[Any]:
        outputs: list[Any] = []
        failed: set[bytes | None] = set()
        for event, key in zip(events, keys, strict=True):
            output = Deferred() if key in failed else await self._attempt(event)
            outputs.append(output)
            if key is not None and isinstance(output, Failed) and self._holds_back(output.error):
                failed.add(key)
        return outputs

    def _holds_back(self, error: Exception) -> bool:
        """Whether the rest of the key waits: it does for an event that will be tried again."""
        return should_retry(error, 1, self._handler.options)

    async def _together(self, events: Sequence[Any]) -> list[Any]:
        outputs: list[Any] = [None] * len(events)

        async def attempt(position: int, event: Any) -> None:
            outputs[position] = await self._attempt(event)

        async with task_group() as tasks:
            for position, event in enumerate(events):
                tasks.start_soon(attempt, position, event)
        return outputs

    async def _attempt(self, event: Any) -> Any:
        try:
            return await self._within_timeout(event)
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything; it is judged later
            return Failed(exc)

    async def _within_timeout(self, argument: Any) -> Any:
        if self._timeout is None:
            return await self._run(self._function, argument)
        ended = Event()
        function = self._function if self._handler.is_async else partial(_telling, ended, self._function)
        with anyio.move_on_after(self._timeout) as scope:
            return await self._run(function, argument)
        assert scope.cancelled_caught  # noqa: S101 - for the type checker: a scope ends by returning or here
        if not self._handler.is_async:
            self._give_up_thread(ended)
        raise HandlerTimeoutError(
            f"{self._handler.name} ran past its timeout of {self._timeout:g} s; make it faster, lower "
            f"consumer.{self._handler.name}.max_batch, or raise consumer.{self._handler.name}.timeout"
        )

    async def _run(self, function: Any, argument: Any) -> Any:
        if not self._handler.is_async:
            return await self._in_thread(function, argument)
        return await self._survived(function(argument))

    async def _in_thread(self, function: Any, argument: Any) -> Any:
        if self._one_thread:
            function = partial(_single_threaded, function)
        call = to_thread.run_sync(function, argument, abandon_on_cancel=True, limiter=self._limiter)
        return await self._survived(call)

    async def _survived(self, call: Awaitable[Any]) -> Any:
        """The call's result; what it raises does not end the worker."""
        try:
            return await call
        except (SystemExit, anyio.get_cancelled_exc_class()) as exc:
            if _asked_for(exc):
                raise
            raise HandlerExitError(
                f"{self._handler.name} raised {type(exc).__name__}, which would have ended its worker"
            ) from exc

    def _give_up_thread(self, ended: Event) -> None:
        # The abandoned thread keeps its place until it ends, if it ever does: open another.
        self._limiter = CapacityLimiter(1)
        self._stats.gave_up(ended)
        log.error(
            "%s: a call ran past its timeout of %g s and its thread cannot be stopped; another takes its "
            "place (%d so far). Each holds memory, and a core if it is busy, until it ends by itself",
            self._handler.name,
            self._timeout,
            self._stats.abandoned,
        )


def _framed(handler: Handler, function: Callable[..., Any]) -> Callable[[Sequence[Any]], Any]:
    """The function of frames as one of events. The frame is made where the function runs: off the loop."""
    assert handler.frame is not None  # noqa: S101 - for the type checker: the caller has looked
    framer = FrameBuilder(handler.frame)

    def frame_of(events: Any) -> Any:
        return framer.from_events(events) if isinstance(events, list) else framer.from_table(events)

    async def call_async(events: Sequence[Any]) -> Any:
        return await function(await to_thread.run_sync(frame_of, events))

    def call(events: Sequence[Any]) -> Any:
        return function(frame_of(events))

    return call_async if handler.is_async else call


def _asked_for(end: BaseException) -> bool:
    """Whether it is a cancellation from outside the handler, and not out of something it had awaited."""
    if isinstance(end, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return not isinstance(end, SystemExit)  # trio's cancellation cannot be made by hand


def _telling(ended: Event, function: Any, argument: Any) -> Any:
    """Call, and say when it is over: whoever has given up on it may want to know."""
    try:
        return function(argument)
    finally:
        ended.set()


def _single_threaded(function: Any, argument: Any) -> Any:
    """Call with the numeric libraries held to one thread, which is a setting of the calling thread."""
    single_threaded()
    return function(argument)


def _each(
    function: Any,
    keys: Sequence[bytes | None],
    holds_back: Callable[[Exception], bool],
    events: Sequence[Any],
) -> list[Any]:
    """Call for one event after the other, in one thread: what one raises is its own affair, and its key's."""
    outputs: list[Any] = []
    failed: set[bytes | None] = set()
    for event, key in zip(events, keys, strict=True):
        if key in failed:
            outputs.append(Deferred())
            continue
        try:
            outputs.append(function(event))
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything; it is judged later
            outputs.append(Failed(exc))
            if key is not None and holds_back(exc):
                failed.add(key)
    return outputs
