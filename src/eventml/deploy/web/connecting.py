"""The broker behind a web service: connected to when the first event is to be published, not before.

So a service that only predicts needs no broker, and one whose broker is away predicts all the same.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from eventml import config
from eventml.errors import EventMLError, NotOpenError, UnavailableError
from eventml.runtime import task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.bus import Bus

log = logging.getLogger("eventml")


class Connection:
    """A bus that is opened when somebody wants it open. Made by `connecting`.

    A connection lives in a task of its own, as it outlives the request that wanted it.

    Args:
        bus: Which bus. If the app around has opened it, it is used as it is.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._wanted: asyncio.Future[None] | None = None
        self._opened: asyncio.Future[None] | None = None

    async def bus(self) -> Bus:
        """The bus, open.

        Raises:
            UnavailableError: its broker cannot be reached. Asked again, it tries again.
        """
        if _is_open(self._bus):
            return self._bus
        if self._wanted is None:
            raise UnavailableError("the service is about to end")
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_future()
            if not self._wanted.done():
                self._wanted.set_result(None)
        await asyncio.shield(self._opened)
        return self._bus

    async def run(self) -> None:
        """Open it whenever that is wanted, until cancelled."""
        while True:
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
            try:
                async with self._bus.open():
                    self._tell(None)
                    await asyncio.get_running_loop().create_future()  # it stays open until this task ends
            except EventMLError as exc:
                self._tell(exc)

    def _tell(self, error: EventMLError | None) -> None:
        opened, self._opened = self._opened, None
        if opened is not None and not opened.done():
            if error is None:
                opened.set_result(None)
            else:
                opened.set_exception(error)
                opened.exception()  # those who asked may have gone: it need not be retrieved


@asynccontextmanager
async def connecting(bus: Bus) -> AsyncIterator[Connection]:
    """A connection at work. Leaving it closes what it opened."""
    connection = Connection(bus)
    async with task_group() as tasks:
        tasks.start_soon(connection.run)
        yield connection
        tasks.cancel_scope.cancel()


def leads_elsewhere(bus: Bus) -> bool:
    """Whether an event published to the bus reaches anybody: on a backend in this process, nobody reads.

    One that the app around has opened is its own affair.
    """
    if _is_open(bus):
        return True
    settings = bus.settings.backend
    return config.find_backend(settings.scheme).capabilities(settings.options).shared


def _is_open(bus: Bus) -> bool:
    try:
        return bus.backend is not None
    except NotOpenError:
        return False
