"""Asking over the bus: requests wait here for their replies."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING, Final

import anyio

from eventml.backends.base import CreatesTopics, NewTopic
from eventml.errors import EventMLError, NotOpenError, UnavailableError
from eventml.runtime.failures import backoff_delay, describe, task_group
from eventml.runtime.replies import REPLY_RETENTION, reply_topic, request_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from anyio.abc import TaskGroup

    from eventml.backends.base import Backend, Subscription
    from eventml.records import Delivery, Record

log = logging.getLogger("eventml")

_READ: Final = 1_000  # replies taken at once
_LONGEST_WAIT: Final = 5.0  # seconds between two attempts to reach a broker


class _Waiting:
    """One who waits: for the reply to a request, or for the replies to be read at all."""

    __slots__ = ("_done", "_error", "reply")

    def __init__(self) -> None:
        self.reply: Delivery | None = None
        self._error: EventMLError | None = None
        self._done = anyio.Event()

    def settle(self, reply: Delivery | None = None, error: EventMLError | None = None) -> None:
        self.reply, self._error = reply, error
        self._done.set()

    async def wait(self) -> Delivery | None:
        await self._done.wait()
        if self._error is not None:
            # Each waiter gets an exception of its own: one object raised in many tasks shares a traceback.
            raise copy(self._error) from self._error
        return self.reply


class _ReplyReader:
    """Reads one reply topic for all requests of this process that wait on it."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.ready = _Waiting()
        self._waiting: dict[str, _Waiting] = {}

    def expect(self, request: Record) -> _Waiting:
        waiting = self._waiting[request.id] = _Waiting()
        return waiting

    def forget(self, request: Record) -> None:
        """What comes for it from now on is dropped."""
        self._waiting.pop(request.id, None)

    def fail(self, error: EventMLError) -> None:
        self.ready.settle(error=error)
        for waiting in self._waiting.values():
            waiting.settle(error=error)
        self._waiting.clear()

    async def read(self, replies: Subscription) -> None:
        failures = 0
        while True:
            try:
                deliveries = await replies.receive(_READ)
            except UnavailableError as exc:
                failures += 1
                seconds = backoff_delay(failures, 0.1, _LONGEST_WAIT)
                log.warning("%s: %s; again in %.2f s", self.topic, describe(exc), seconds)
                await anyio.sleep(seconds)
            else:
                failures = 0
                self._hand_out(deliveries)

    def _hand_out(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            waiting = self._waiting.pop(request_id(delivery.record), None)
            if waiting is not None:  # else it is too late, another's, or a second answer
                waiting.settle(delivery)


class Requester:
    """Sends requests and waits for their replies. Made by `requesting`.

    It reads every reply on a topic that it asks, whoever they are for, and keeps its own.
    """

    def __init__(self, backend: Backend, tasks: TaskGroup) -> None:
        self._backend = backend
        self._tasks = tasks
        self._readers: dict[str, _ReplyReader] = {}

    async def ask(self, request: Record, publish: Callable[[Record], Awaitable[None]]) -> Delivery:
        """Publish a request, whose id is unique, and wait for the first reply to it.

        Raises:
            NotOpenError: the bus was closed meanwhile.
            EventMLError: the request cannot be published, or replies not be read.
        """
        reader = self._reader(reply_topic(request.topic))
        await reader.ready.wait()
        waiting = reader.expect(request)
        try:
            await publish(request)
            reply = await waiting.wait()
        finally:
            reader.forget(request)
        assert reply is not None  # noqa: S101 - for the type checker: only `ready` is settled with nothing
        return reply

    def _reader(self, topic: str) -> _ReplyReader:
        reader = self._readers.get(topic)
        if reader is None:
            reader = self._readers[topic] = _ReplyReader(topic)
            self._tasks.start_soon(self._read, reader)
        return reader

    async def _read(self, reader: _ReplyReader) -> None:
        error: EventMLError = NotOpenError("the bus was closed before the answer came")
        try:
            if isinstance(self._backend, CreatesTopics):
                # One partition: each requester reads all of them anyway.
                new = NewTopic(name=reader.topic, partitions=1, retention=REPLY_RETENTION)
                await self._backend.create_topics([new])
            async with self._backend.subscribe([reader.topic], group=None, start="latest") as replies:
                reader.ready.settle()
                await reader.read(replies)
        except EventMLError as exc:
            error = exc
        finally:
            # The next request starts another reader.
            del self._readers[reader.topic]
            reader.fail(error)


@asynccontextmanager
async def requesting(backend: Backend) -> AsyncIterator[Requester]:
    """A requester at work. Leaving it fails the requests that still wait."""
    async with task_group() as tasks:
        try:
            yield Requester(backend, tasks)
        finally:
            tasks.cancel_scope.cancel()
