"""Concurrent calls of single events, in the order of each key.

An event leaves as soon as its call is over, whatever becomes of those that were called with it. One that
fails waits for its retry by itself, and holds back only its key.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio

from eventml.backends.base import Completion
from eventml.handlers import Handler
from eventml.runtime.calling import Item
from eventml.runtime.retry import Retry
from eventml.runtime.staleness import Staleness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyio.abc import TaskGroup


class ConcurrentCalls:
    """The step in front of `Retry` that has it called for many single events at once.

    Args:
        ordered: Whether the events of one key are handled one after the other.
        staleness: Completes the events that are stale when their turn comes; None if none are.

    Attributes:
        in_process: How many events it has taken and not yet sent on.
    """

    def __init__(
        self, retry: Retry, handler: Handler, *, ordered: bool, staleness: Staleness | None = None
    ) -> None:
        self._retry = retry
        self._staleness = staleness
        self._turns = anyio.Semaphore(handler.concurrency, fast_acquire=True)
        self._ordered = ordered
        # Events that wait for a retry, or behind one of their key, make room for as many others.
        self._places = anyio.Semaphore(2 * max(handler.concurrency, handler.max_batch), fast_acquire=True)
        self._behind: dict[bytes, deque[Item]] = {}
        self._tasks: TaskGroup | None = None
        self._send: Callable[[list[Completion]], Awaitable[object]] | None = None
        self._empty: anyio.Event | None = None  # exists only while a task waits for it
        self.in_process = 0

    def start(self, tasks: TaskGroup, send: Callable[[list[Completion]], Awaitable[object]]) -> None:
        """Run the calls in these tasks, and send the completions."""
        self._tasks, self._send = tasks, send

    async def process(self, items: Sequence[Item]) -> list[Completion]:
        """Take events, when there is room. Completions are sent later, those of redelivered events returned.

        A redelivered event may be a poison event: no other is in process while it is called.
        """
        if items[0].delivery.attempt > 1:
            return await self._process_redelivered(items)
        assert self._tasks is not None, "not started"  # noqa: S101 - for the type checker
        for item in items:
            await self._places.acquire()
            self.in_process += 1
            key = item.delivery.record.key or None if self._ordered else None
            if key is not None and key in self._behind:
                self._behind[key].append(item)
                continue
            if key is not None:
                self._behind[key] = deque()
            self._tasks.start_soon(self._handle, key, item)
        return []

    async def finished(self) -> None:
        """Wait until all events that were taken are finished."""
        while self.in_process:
            if self._empty is None:
                self._empty = anyio.Event()
            await self._empty.wait()

    async def _process_redelivered(self, items: Sequence[Item]) -> list[Completion]:
        await self.finished()
        completions: list[Completion] = []
        if self._staleness is not None:
            items, completions = self._staleness.split(items)
        return completions + await self._retry.process_all(items) if items else completions

    async def _handle(self, key: bytes | None, item: Item) -> None:
        """Handle an event, and those that come behind it with its key."""
        assert self._send is not None, "not started"  # noqa: S101 - for the type checker
        instead = None if self._staleness is None else self._staleness.complete
        while True:
            await self._send([await self._retry.process_alone(item, self._turns, instead)])
            self._places.release()
            self.in_process -= 1
            if not self.in_process and self._empty is not None:
                self._empty.set()
                self._empty = None
            if key is None:
                return
            if not self._behind[key]:
                del self._behind[key]
                return
            item = self._behind[key].popleft()
