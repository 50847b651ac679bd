"""The desk: a backend whose topics are requests. What callers ask is received; what comes of it answers them.

    caller ── ask ──► Queue ── receive ──► the runtime ── complete ──► Asked ──► caller
                   (bounded)

It lives in one event loop of asyncio's, and keeps nothing: a caller who has gone is forgotten.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Final, cast

from eventml.backends.base import Capabilities
from eventml.errors import FullError, UnsupportedError
from eventml.records import NO_HEADERS, Delivery, Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from eventml.backends.base import Completion, Start

_CAPABILITIES: Final = Capabilities(
    ordering="per_key",  # first come, first served, and no event has a key
    redelivery="leave",
    atomic_completion=True,
    durable=False,
    counts_attempts=False,
    shared=False,
)


class Asked:
    """One request's events: what came of each, in their order.

    Attributes:
        results: What came of each; None while that is not known.
        answered: Done once all is known, or there is no more time.
        first: The offset of its first event; those of the others follow.
        left: How many are not known yet.
    """

    __slots__ = ("answered", "first", "left", "results")

    def __init__(self, events: int, first: int) -> None:
        self.results: list[Completion | None] = [None] * events
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first = first
        self.left = events

    def settle(self, completion: Completion, offset: int) -> None:
        self.results[offset - self.first] = completion
        self.left -= 1
        if not self.left and not self.answered.done():
            self.answered.set_result(None)

    def expire(self) -> None:
        """There is no more time."""
        if not self.answered.done():
            self.answered.set_exception(TimeoutError())


class Queue:
    """Those who wait for one predictor: a subscription to the runtime.

    Args:
        topic: What the predictor reads on a stream.
        capacity: The most events that wait here. More are turned away.
    """

    def __init__(self, topic: str, capacity: int) -> None:
        self._topic = topic
        self._capacity = capacity
        self._waiting: deque[Delivery] = deque()
        self._open: dict[int, Asked] = {}
        self._numbers = count()
        self._arrived: asyncio.Future[None] | None = None

    def ask(
        self, values: Sequence[bytes], ids: Iterable[str], headers: Mapping[str, str] = NO_HEADERS
    ) -> Asked:
        """Put a request's events in the queue, one at least, all with the same headers.

        Raises:
            FullError: there is no room for them all; none was put in.
        """
        if len(self._waiting) + len(values) > self._capacity:
            raise FullError(f"{len(self._waiting)} events wait already, of {self._capacity} at most")
        now, topic = time.time(), self._topic
        asked: Asked | None = None
        for number, value, id_ in zip(self._numbers, values, ids, strict=False):
            if asked is None:
                asked = Asked(len(values), number)
            self._open[number] = asked
            self._waiting.append(Delivery(Record(topic, value, None, id_, headers), 0, number, now))
        if asked is None:
            raise ValueError("a request without events asks nothing")
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
        return asked

    def forget(self, asked: Asked) -> None:
        """Its caller waits no more: what has not begun is not begun."""
        for offset in range(asked.first, asked.first + len(asked.results)):
            self._open.pop(offset, None)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As `Subscription.receive`."""
        while True:
            while not self._waiting:
                self._arrived = asyncio.get_running_loop().create_future()
                await self._arrived
            waiting = self._waiting
            taken = [waiting.popleft() for _ in range(min(limit, len(waiting)))]
            wanted = [delivery for delivery in taken if delivery.offset in self._open]
            if wanted:
                return wanted

    async def complete(self, done: Sequence[Completion]) -> None:
        """As `Subscription.complete`: each completion answers the one who asked, if they still wait."""
        for completion in done:
            offset = cast("int", completion.delivery.offset)  # ours all are
            asked = self._open.pop(offset, None)
            if asked is not None:
                asked.settle(completion, offset)

    async def lag(self) -> int:
        """How many events are asked for and not answered."""
        return len(self._open)


class Desk:
    """A backend for handlers that each have a group of their own.

    Args:
        capacity: The most events that wait for one handler.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.queues: dict[str, Queue] = {}
        """By group, once subscribed."""

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    async def publish(self, records: Sequence[Record]) -> None:
        """As `Backend.publish`: refused, as all that is written here answers somebody."""
        raise UnsupportedError(f"{len(records)} records: nothing is published at the desk of a web service")

    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AsyncIterator[Queue]:
        """As `Backend.subscribe`, for one topic and one member a group."""
        del start  # nothing was asked before there was somebody to answer
        [topic] = topics
        if group is None or group in self.queues:
            raise UnsupportedError(f"group {group!r}: at the desk each handler has a group of its own")
        self.queues[group] = Queue(topic, self._capacity)
        try:
            yield self.queues[group]
        finally:
            del self.queues[group]

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        """As `Backend.lag`."""
        del topic
        queue = self.queues.get(group)
        return None if queue is None else {0: await queue.lag()}
