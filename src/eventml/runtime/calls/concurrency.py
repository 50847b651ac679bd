"""Concurrent calls of single events, in the order of each key.

As many tasks as there may be calls take events one after the other. An event leaves as soon as its call is
over, whatever becomes of those that were called with it. One that fails waits for its retry by itself, and
holds back only its key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from eventml.backends.base import Completion
from eventml.handlers import Handler
from eventml.runtime.calls.caller import Item
from eventml.runtime.failures.circuit_breaker import StoppedError
from eventml.runtime.failures.classification import Failed
from eventml.runtime.failures.retry import Retry

_YIELD: Final = 32
"""A task that handles so many events without a wait lets the others run."""


class _Keyed(NamedTuple):
    """An event, and the key whose later events wait for it; None if none do."""

    key: bytes | None
    item: Item


class ConcurrentCalls:
    """Calls `Retry` for many single events at once.

    Args:
        ordered: Whether the events of one key are handled one after the other.

    Attributes:
        in_process: How many events it has taken and not yet sent on.
    """

    def __init__(self, retry: Retry, handler: Handler, *, ordered: bool) -> None:
        self._retry = retry
        self._ordered = ordered
        self._concurrency = handler.concurrency
        # Events that wait for a retry, or behind one of their key, make room for as many others.
        self._room = anyio.Semaphore(2 * max(handler.concurrency, handler.max_batch), fast_acquire=True)
        self._ready: deque[_Keyed] = deque()
        self._behind: dict[bytes, deque[Item]] = {}
        self._done: list[tuple[bytes | None, Completion]] = []
        self._running = 0  # tasks that take events
        self._starting = False  # one of them has yet to take its first
        self._tasks: TaskGroup | None = None
        self._wake = anyio.Event()  # is set when there are completions to be sent
        self._empty: anyio.Event | None = None  # exists only while a task waits for it
        self.in_process = 0

    def start(self, tasks: TaskGroup, send: Callable[[list[Completion]], Awaitable[object]]) -> None:
        """Make the calls in these tasks, and send their completions until these are cancelled."""
        self._tasks = tasks
        tasks.start_soon(self._send_all, send)

    async def process(self, items: Sequence[Item]) -> list[Completion]:
        """Take events, when there is room, and return before they are handled: completions are sent later.

        A redelivered event may be a poison event: no other is in process while it is called, and its
        completion is returned.
        """
        if items[0].delivery.attempt > 1:
            return await self._process_redelivered(items)
        for item in items:
            try:
                self._room.acquire_nowait()  # `acquire` asks all cancel scopes, which costs as much as a call
            except anyio.WouldBlock:
                await self._room.acquire()
            self.in_process += 1
            key = item.delivery.record.key or None if self._ordered else None
            if key is not None and key in self._behind:
                self._behind[key].append(item)
                continue
            if key is not None:
                self._behind[key] = deque()
            self._make_ready(key, item)
        return []

    async def call_again(self, items: Sequence[Item]) -> list[Completion]:
        """The completions of events that were called before, one after the other."""
        return [await self._retry.process_alone(item) for item in items]

    async def finished(self) -> None:
        """Wait until all events that were taken are finished."""
        while self.in_process:
            if self._empty is None:
                self._empty = anyio.Event()
            await self._empty.wait()

    async def _process_redelivered(self, items: Sequence[Item]) -> list[Completion]:
        await self.finished()
        return await self._retry.process_all(items)

    def _make_ready(self, key: bytes | None, item: Item) -> None:
        self._ready.append(_Keyed(key, item))
        self._start_task()

    def _start_task(self) -> None:
        """Start a task for the events that are ready. It starts the next one if it has to wait itself."""
        assert self._tasks is not None, "not started"  # noqa: S101 - for the type checker
        if self._ready and not self._starting and self._running < self._concurrency:
            self._running += 1
            self._starting = True
            self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        """Handle events until none is ready."""
        self._starting = False
        handled = 0
        while self._ready:
            key, item = self._ready.popleft()
            self._start_task()
            result = await self._retry.first_attempt(item)
            if isinstance(result, Failed):
                assert self._tasks is not None, "not started"  # noqa: S101 - for the type checker
                self._tasks.start_soon(self._try_again, key, item, result.error)
            else:
                self._finish(key, result)
            handled += 1
            if handled % _YIELD == 0:
                await anyio.lowlevel.checkpoint()
        self._running -= 1

    async def _try_again(self, key: bytes | None, item: Item, error: Exception) -> None:
        self._finish(key, await self._retry.settle(item, error))

    def _finish(self, key: bytes | None, completion: Completion) -> None:
        # A dead letter may be kept back by the circuit breaker, and what comes behind it with its key too.
        if not completion.dead_letter:
            self._release(key)
            key = None
        self._done.append((key, completion))
        self._wake.set()

    def _release(self, key: bytes | None) -> None:
        """Make the next event of a key ready."""
        if key is None:
            return
        if self._behind[key]:
            self._make_ready(key, self._behind[key].popleft())
        else:
            del self._behind[key]

    async def _send_all(self, send: Callable[[list[Completion]], Awaitable[object]]) -> None:
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            done, self._done = self._done, []
            try:
                await send([completion for _, completion in done])
            except StoppedError:  # those that are kept back return to the group, and what waits behind them
                for key, _ in done:
                    self._leave(len(self._behind.pop(key, ())) if key is not None else 0)
            else:
                for key, _ in done:
                    self._release(key)
            self._leave(len(done))

    def _leave(self, events: int) -> None:
        """Make room for as many other events."""
        for _ in range(events):
            self._room.release()
        self.in_process -= events
        if not self.in_process and self._empty is not None:
            self._empty.set()
            self._empty = None
