"""A backend whose topics are HTTP requests: the runtime receives their events, and completions answer them.

    endpoint ── submit ──► RequestQueue ── receive ──► runtime ── complete ──► PendingRequest ──► endpoint
                            (bounded)

It lives in one asyncio event loop and stores nothing: the events of a client that has left are dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, cast

from eventml.backends.base import Capabilities, Completion, Start
from eventml.codec import DecodedBatch, Decoder
from eventml.errors import FullError, UnsupportedError
from eventml.records import NO_HEADERS, Delivery, Record

_MAX_BYTES: Final = 64_000_000


class RequestEvent(NamedTuple):
    """One event of a request: its JSON, its id, and the decoded event, or why it cannot be decoded."""

    value: bytes
    id: str
    event: Any


class RequestDelivery(Delivery, frozen=True, gc=False):
    """A delivery whose event was decoded when its request was read."""

    event: Any = None


class RequestDecoder(Decoder):
    """Gives the runtime the events that requests were decoded to, so that they are not parsed again."""

    def decode_batch(self, deliveries: Sequence[Delivery]) -> DecodedBatch:
        """As `Decoder.decode_batch`, for deliveries of a `RequestQueue`."""
        requests = cast("Sequence[RequestDelivery]", deliveries)
        # Their headers are those of the web service: no request over the bus, no replayed dead letter.
        return DecodedBatch([delivery.event for delivery in requests], 0, ())


class PendingRequest:
    """The events of a request that waits for its answer."""

    __slots__ = ("completions", "done", "first", "size", "unfinished")

    def __init__(self, events: int, first: int, size: int) -> None:
        self.completions: list[Completion | None] = [None] * events  # in their order
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first = first  # offset of the first event; the others follow
        self.size = size  # of all events, in bytes
        self.unfinished = events  # the number of them


class RequestQueue:
    """The events that wait for one predictor, up to a capacity: a subscription of the runtime.

    The events of all unfinished requests have `max_bytes` at most, or are those of one request.
    """

    def __init__(self, topic: str, capacity: int, max_bytes: int = _MAX_BYTES) -> None:
        self._topic = topic
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._bytes = 0
        self._waiting: deque[RequestDelivery] = deque()
        self._pending: dict[int, PendingRequest] = {}  # by the offset of each unfinished event
        self._next_offset = 0
        self._arrival = asyncio.Event()

    def submit(
        self, events: Sequence[RequestEvent], headers: Mapping[str, str] = NO_HEADERS
    ) -> PendingRequest:
        """Put the events of a request, at least one, into the queue: all of them, or none.

        Raises:
            FullError: the queue has no room for all of them.
        """
        waiting = len(self._waiting)
        if waiting + len(events) > self._capacity:
            raise FullError(f"{waiting} of at most {self._capacity} events wait already (web.max_waiting)")
        size = sum(len(event.value) for event in events)
        if self._bytes and self._bytes + size > self._max_bytes:
            raise FullError(
                f"events of {self._bytes} bytes wait already, of at most {self._max_bytes}; "
                "send fewer or smaller events at once, or run more workers"
            )
        self._bytes += size
        now = time.time()
        request = PendingRequest(len(events), self._next_offset, size)
        for value, id_, event in events:
            record = Record(self._topic, value, None, id_, headers)
            self._waiting.append(RequestDelivery(record, 0, self._next_offset, now, 1, event))
            self._pending[self._next_offset] = request
            self._next_offset += 1
        self._arrival.set()
        return request

    def cancel(self, request: PendingRequest) -> None:
        """Drop a request that nobody waits for: its events that still wait are not handled."""
        self._finish(request)
        for offset in range(request.first, request.first + len(request.completions)):
            self._pending.pop(offset, None)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while True:
            self._arrival.clear()
            waiting = self._waiting
            taken = [waiting.popleft() for _ in range(min(limit, len(waiting)))]
            pending = [delivery for delivery in taken if delivery.offset in self._pending]
            if pending:
                return pending
            if not waiting:
                await self._arrival.wait()

    async def complete(self, done: Sequence[Completion]) -> None:
        """As `Subscription.complete`: each completion goes to its request, if that still waits."""
        for completion in done:
            offset = cast("int", completion.delivery.offset)
            request = self._pending.pop(offset, None)
            if request is None:
                continue
            request.completions[offset - request.first] = completion
            request.unfinished -= 1
            if not request.unfinished:
                self._finish(request)
                if not request.done.done():
                    request.done.set_result(None)

    async def lag(self) -> int:
        return len(self._pending)

    def _finish(self, request: PendingRequest) -> None:
        self._bytes -= request.size
        request.size = 0


class RequestBackend:
    """A backend for handlers that have a group each. Each group has a queue of the same capacity."""

    capabilities: Final = Capabilities(
        ordering="per_key",  # first in, first out; no event has a key
        redelivery="leave",
        atomic_completion=True,
        durable=False,
        counts_attempts=False,
        shared=False,
        start_at_time=True,  # of what comes, all is new
    )

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.queues: dict[str | None, RequestQueue] = {}

    async def publish(self, records: Sequence[Record]) -> None:
        """As `Backend.publish`: refused, because outputs leave as answers only."""
        raise UnsupportedError(f"cannot publish {len(records)} records to the requests of a web service")

    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AsyncIterator[RequestQueue]:
        """As `Backend.subscribe`, once for each group, to one topic."""
        del start  # there are no earlier requests
        [topic] = topics
        self.queues[group] = RequestQueue(topic, self._capacity)
        yield self.queues[group]

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        del topic
        return {0: await self.queues[group].lag()}
