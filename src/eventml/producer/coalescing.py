"""Coalescing: concurrent calls of `publish` share one write to the backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from typing import Generic, NamedTuple, Self, TypeVar

import anyio

from eventml.backends.base import Backend
from eventml.errors import EventMLError, NotOpenError, PublishError, UnavailableError
from eventml.records import Record
from eventml.runtime import task_group

T = TypeVar("T")

RECORDS_PER_WRITE = 1_000  # a larger write is no faster, and its failure would affect more callers


class Outcome(Generic[T]):
    """What tasks wait for: a value, or an error that is raised in each of them."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._error: EventMLError | None = None

    def set(self, value: T) -> None:
        """Return the value from all calls of `wait`."""
        self._value = value
        self._done.set()

    def fail(self, error: EventMLError) -> None:
        """Raise the error from all calls of `wait`."""
        self._error = error
        self._done.set()

    async def wait(self) -> T:
        """Wait until `set` or `fail` has been called."""
        await self._done.wait()
        if self._error is not None:
            # A copy for each task: one exception raised in many tasks would share its traceback.
            raise copy(self._error) from self._error
        return self._value


class _Write(NamedTuple):
    records: list[Record]
    outcome: Outcome[None]


class Coalescer:
    """Collects single records while a write is in progress, and sends them together in the next one.

    There is no timer: a single record is written at once.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._open: list[_Write] = []
        self._wake = anyio.Event()
        self._closed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Publish while the context is entered. Leaving it waits for writes in progress."""
        async with task_group() as tasks:
            tasks.start_soon(self._run)
            try:
                yield self
            finally:
                self._closed = True
                self._wake.set()

    async def publish(self, record: Record) -> None:
        """Write one record. Returns when the broker has stored it.

        Raises:
            PublishError: The broker refused this record.
            UnavailableError: The broker cannot be reached.
            NotOpenError: The bus has been closed.
        """
        if self._closed:
            raise NotOpenError("the bus has been closed; publish inside `async with bus:`")
        if not self._open or len(self._open[-1].records) >= RECORDS_PER_WRITE:
            self._open.append(_Write([], Outcome()))
            self._wake.set()
        write = self._open[-1]
        position = len(write.records)
        write.records.append(record)
        try:
            await write.outcome.wait()
        except PublishError as exc:
            if not exc.failed:
                raise
            if position in exc.failed:
                raise PublishError(exc.failed[position], {0: exc.failed[position]}) from exc

    async def _run(self) -> None:
        while not self._closed or self._open:
            if not self._open:
                await self._wake.wait()
                self._wake = anyio.Event()
                continue
            write = self._open.pop(0)
            try:
                await self._backend.publish(write.records)
            except EventMLError as exc:
                write.outcome.fail(exc)
            except BaseException:
                self._closed = True
                error = UnavailableError("the bus was closed during this write: its events may be lost")
                for unfinished in (write, *self._open):
                    unfinished.outcome.fail(error)
                raise
            else:
                write.outcome.set(None)
