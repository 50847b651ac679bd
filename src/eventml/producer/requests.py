"""Requests over the bus: each waits here for its reply."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING, Final

import anyio

from eventml.backends.base import CreatesTopics, NewTopic
from eventml.errors import BackendError, EventMLError, NotOpenError
from eventml.runtime import REPLY_RETENTION, backoff_delay, describe, reply_topic, request_id, task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.abc import TaskGroup

    from eventml.backends.base import Backend, Subscription
    from eventml.records import Delivery, Record

log = logging.getLogger("eventml")

_MAX_REPLIES: Final = 1_000  # in one receive
_MAX_BACKOFF: Final = 5.0  # seconds between two attempts to reach a broker


class _Outcome:
    """The reply or the error that a task waits for. Without a reply it only means "ready"."""

    __slots__ = ("_done", "_error", "reply")

    def __init__(self) -> None:
        self.reply: Delivery | None = None
        self._error: EventMLError | None = None
        self._done = anyio.Event()

    def set(self, reply: Delivery | None = None, error: EventMLError | None = None) -> None:
        self.reply, self._error = reply, error
        self._done.set()

    async def wait(self) -> Delivery | None:
        await self._done.wait()
        if self._error is not None:
            # A copy for each task: one exception raised in many tasks would share its traceback.
            raise copy(self._error) from self._error
        return self.reply


class _ReplyReader:
    """Reads one reply topic, for all requests of this process whose replies arrive on it."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.ready = _Outcome()
        self.waiting: dict[str, _Outcome] = {}  # by the request's id

    def fail(self, error: EventMLError) -> None:
        self.ready.set(error=error)
        for outcome in self.waiting.values():
            outcome.set(error=error)
        self.waiting.clear()

    async def read(self, replies: Subscription) -> None:
        failures = 0
        while True:
            try:
                deliveries = await replies.receive(_MAX_REPLIES)
            except BackendError as exc:
                failures += 1
                seconds = backoff_delay(failures, 0.1, _MAX_BACKOFF)
                log.warning("%s: %s; reading replies again in %.2f s", self.topic, describe(exc), seconds)
                await anyio.sleep(seconds)
                continue
            failures = 0
            for delivery in deliveries:
                outcome = self.waiting.pop(request_id(delivery.record), None)
                if outcome is not None:  # else too late, to another process's request, or a second reply
                    outcome.set(delivery)


class Requester:
    """Sends requests and waits for their replies. Made by `open_requester`.

    Processes share a topic's reply topic: each reads all replies on it, and ignores those to other processes.
    """

    def __init__(self, backend: Backend, tasks: TaskGroup) -> None:
        self._backend = backend
        self._tasks = tasks
        self._readers: dict[str, _ReplyReader] = {}

    async def request(self, request: Record, publish: Callable[[Record], Awaitable[None]]) -> Delivery:
        """Publish a request and wait for the first reply to it.

        Args:
            request: The record to publish. Its id must be unique.
            publish: The function that publishes it.

        Raises:
            NotOpenError: The bus was closed before the reply arrived.
            EventMLError: The request cannot be published, or the replies cannot be read.
        """
        reader = self._reader(reply_topic(request.topic))
        await reader.ready.wait()
        outcome = reader.waiting[request.id] = _Outcome()
        try:
            await publish(request)
            reply = await outcome.wait()
        finally:
            reader.waiting.pop(request.id, None)  # a reply that arrives from now on is dropped
        assert reply is not None  # noqa: S101 - for the type checker: only `ready` is set without a reply
        return reply

    def _reader(self, topic: str) -> _ReplyReader:
        reader = self._readers.get(topic)
        if reader is None:
            reader = self._readers[topic] = _ReplyReader(topic)
            self._tasks.start_soon(self._read, reader)
        return reader

    async def _read(self, reader: _ReplyReader) -> None:
        error: EventMLError = NotOpenError("the bus was closed before the reply arrived")
        try:
            if isinstance(self._backend, CreatesTopics):
                # One partition is enough: each requester reads all of them.
                new = NewTopic(name=reader.topic, partitions=1, retention=REPLY_RETENTION)
                await self._backend.create_topics([new])
            async with self._backend.subscribe([reader.topic], group=None, start="latest") as replies:
                reader.ready.set()
                await reader.read(replies)
        except EventMLError as exc:
            error = exc
        finally:
            # The next request starts another reader.
            del self._readers[reader.topic]
            reader.fail(error)


@asynccontextmanager
async def open_requester(backend: Backend) -> AsyncIterator[Requester]:
    """A running requester. Leaving the context fails the requests that still wait."""
    async with task_group() as tasks:
        try:
            yield Requester(backend, tasks)
        finally:
            tasks.cancel_scope.cancel()
