"""A bus that runs in a task of its own, as in a notebook."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from typing import Self

log = logging.getLogger("eventml")


class Background:
    """A bus that stays open, and runs its handlers, in a task of its own; `Bus.run_in_background` returns it.

    In a notebook every cell is a task, and a bus cannot be opened by one task and closed by another. As an
    async context manager, it stops at the end of the block. It needs asyncio.
    """

    def __init__(self, opened: AbstractAsyncContextManager[object]) -> None:
        self._opened = opened
        self._stopping = asyncio.Event()

    async def start(self) -> Self:
        """Enter the context in a task. Raises what that raises. If it is cancelled, nothing runs."""
        self._entered = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())
        try:
            await asyncio.wait([self._task, self._entered], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        if self._task.done():
            await self.stop()
        return self

    async def stop(self) -> None:
        """Finish what is in flight, and close the bus. Raises what has ended it before.

        It may be called again, and then waits again: what is in flight goes on if the call is cancelled.
        """
        self._stopping.set()
        if not self._task.done():
            await asyncio.wait([self._task])
        # A cell that was interrupted, or a loop that was closed, has cancelled the task.
        if not self._task.cancelled() and (error := self._task.result()) is not None:
            raise error

    async def _run(self) -> Exception | None:
        try:
            async with self._opened:
                self._entered.set_result(None)
                await self._stopping.wait()
        except Exception as exc:
            if self._entered.done():
                log.exception("the handlers no longer run in the background")
            return exc
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
