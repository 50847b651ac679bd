"""Requests over the bus: each waits here for its reply."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Self

from eventml.backends.base import Backend, CreatesTopics, NewTopic, Subscription
from eventml.errors import EventMLError, NotOpenError
from eventml.producer.coalescing import Outcome
from eventml.records import Delivery, Record
from eventml.runtime import REPLY_RETENTION, BrokerRetry, reply_topic, request_id, task_group

_MAX_REPLIES: Final = 1_000  # in one receive


class _ReplyReader:
    """Reads one reply topic, for all requests of this process whose replies arrive on it."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.ready = Outcome[None]()
        self.waiting: dict[str, Outcome[Delivery]] = {}  # by the request's id

    async def read(self, replies: Subscription) -> None:
        retry = BrokerRetry(self.topic, "receive")
        while True:
            for delivery in await retry.until_success(partial(replies.receive, _MAX_REPLIES)):
                outcome = self.waiting.pop(request_id(delivery.record), None)
                if outcome is not None:  # else too late, to another process's request, or a second reply
                    outcome.set(delivery)


class Requester:
    """Sends requests and waits for their replies, while its context `running` is entered.

    Processes share a topic's reply topic: each reads all replies on it, and ignores those to other processes.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._readers: dict[str, _ReplyReader] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Send requests while the context is entered. Leaving it fails the requests that still wait."""
        async with task_group() as self._tasks:
            try:
                yield self
            finally:
                self._tasks.cancel_scope.cancel()

    async def request(self, request: Record, publish: Callable[[Record], Awaitable[None]]) -> Delivery:
        """Publish a request, whose id must be unique, and wait for the first reply to it.

        Raises:
            NotOpenError: The bus was closed before the reply arrived.
            EventMLError: The request cannot be published, or the replies cannot be read.
        """
        topic = reply_topic(request.topic)
        reader = self._readers.get(topic)
        if reader is None:
            reader = self._readers[topic] = _ReplyReader(topic)
            self._tasks.start_soon(self._read, reader)
        await reader.ready.wait()
        outcome = reader.waiting[request.id] = Outcome()
        try:
            await publish(request)
            return await outcome.wait()
        finally:
            reader.waiting.pop(request.id, None)  # a reply that arrives from now on is dropped

    async def _read(self, reader: _ReplyReader) -> None:
        error: EventMLError = NotOpenError("the bus was closed before the reply arrived")
        try:
            if isinstance(self._backend, CreatesTopics):
                # One partition is enough: each requester reads all of them.
                new = NewTopic(name=reader.topic, partitions=1, retention=REPLY_RETENTION)
                await self._backend.create_topics([new])
            async with self._backend.subscribe([reader.topic], group=None, start="latest") as replies:
                reader.ready.set(None)
                await reader.read(replies)
        except EventMLError as exc:
            error = exc
        finally:
            # The next request starts another reader.
            del self._readers[reader.topic]
            reader.ready.fail(error)
            for outcome in reader.waiting.values():
                outcome.fail(error)
