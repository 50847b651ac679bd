"""Publishing coalesces: concurrent calls share one write and one wait."""

from __future__ import annotations

from contextlib import asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING

import anyio

from eventml.errors import EventMLError, NotOpenError, PublishError, UnavailableError
from eventml.runtime.failures import task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.backends.base import Backend
    from eventml.records import Record

_WRITE = 1_000  # records: beyond that a larger write gains nothing, and a failure would take more along


class _Write:
    """Records that go to the backend together, and who waits for them."""

    __slots__ = ("done", "error", "records")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.done = anyio.Event()
        self.error: EventMLError | None = None


class Coalescer:
    """Gathers single records while a write is under way, and sends them together in the next.

    There is no timer: a lone record goes out at once.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._open: list[_Write] = []
        self._wake = anyio.Event()
        self._closed = False

    async def publish(self, record: Record) -> None:
        """Write one record. Returns when the broker has it.

        Raises:
            PublishError: this record was refused.
            UnavailableError: the broker is out of reach.
        """
        if self._closed:
            raise NotOpenError("the bus has been closed; publish inside `async with bus:`")
        if not self._open or len(self._open[-1].records) >= _WRITE:
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
        # Each waiter gets an exception of its own: one object raised in many tasks shares a traceback.
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
                write.error = UnavailableError("the bus was closed during this write: it may be lost")
                self._fail_the_rest(write.error)
                raise
            finally:
                write.done.set()

    def _fail_the_rest(self, error: EventMLError) -> None:
        self._closed = True
        for write in self._open:
            write.error = error
            write.done.set()
        self._open.clear()

    def _close(self) -> None:
        self._closed = True
        self._wake.set()


@asynccontextmanager
async def coalescing(backend: Backend) -> AsyncIterator[Coalescer]:
    """A coalescer at work. Leaving it waits for the writes that were begun."""
    coalescer = Coalescer(backend)
    async with task_group() as tasks:
        tasks.start_soon(coalescer._run)  # noqa: SLF001 - one unit: the class is what it shows to callers
        try:
            yield coalescer
        finally:
            coalescer._close()  # noqa: SLF001 - as above
