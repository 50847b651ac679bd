"""Coalescing: concurrent calls of `publish` share one write to the backend."""

from __future__ import annotations

from contextlib import asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING

import anyio

from eventml.errors import EventMLError, NotOpenError, PublishError, UnavailableError
from eventml.runtime import task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.backends.base import Backend
    from eventml.records import Record

_RECORDS_PER_WRITE = 1_000  # a larger write is no faster, and its failure would affect more callers


class _Write:
    """Records that go to the backend together, and the outcome that their publishers wait for."""

    __slots__ = ("done", "error", "records")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.done = anyio.Event()
        self.error: EventMLError | None = None


class Coalescer:
    """Collects single records while a write is in progress, and sends them together in the next one.

    There is no timer: a single record is written at once.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._open: list[_Write] = []
        self._wake = anyio.Event()
        self._closed = False

    async def publish(self, record: Record) -> None:
        """Write one record. Returns when the broker has stored it.

        Raises:
            PublishError: The broker refused this record.
            UnavailableError: The broker cannot be reached.
            NotOpenError: The bus has been closed.
        """
        if self._closed:
            raise NotOpenError("the bus has been closed; publish inside `async with bus:`")
        if not self._open or len(self._open[-1].records) >= _RECORDS_PER_WRITE:
            self._open.append(_Write())
            self._wake.set()
        write = self._open[-1]
        position = len(write.records)
        write.records.append(record)
        await write.done.wait()
        error = write.error
        if error is None:
            return
        if isinstance(error, PublishError) and error.failed:
            if position in error.failed:
                raise PublishError(error.failed[position], {0: error.failed[position]}) from error
            return
        # A copy for each task: one exception raised in many tasks would share its traceback.
        raise copy(error) from error

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
                write.error = exc
            except BaseException:
                self._closed = True
                error = UnavailableError("the bus was closed during this write: its events may be lost")
                for unfinished in (write, *self._open):
                    unfinished.error = error
                    unfinished.done.set()
                self._open.clear()
                raise
            finally:
                write.done.set()

    def _close(self) -> None:
        self._closed = True
        self._wake.set()


@asynccontextmanager
async def open_coalescer(backend: Backend) -> AsyncIterator[Coalescer]:
    """A running coalescer. Leaving the context waits for writes in progress."""
    coalescer = Coalescer(backend)
    async with task_group() as tasks:
        tasks.start_soon(coalescer._run)  # noqa: SLF001 - private to this module: the class shows callers `publish` alone
        try:
            yield coalescer
        finally:
            coalescer._close()  # noqa: SLF001 - as above
