"""Replacing a worker by another, in good order: the new one is ready before the old one drains."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventml.deploy.workers.child import Child
    from eventml.deploy.workers.crew import Crew, Slot
    from eventml.deploy.workers.placement import Place

log = logging.getLogger("eventml")


class Replacing:
    """Replaces workers, one at a time.

    Args:
        crew: Whose.
        launch: Starts a worker.
        drain: How long one that is asked to stop may take, in seconds.
    """

    def __init__(self, crew: Crew, launch: Callable[[Place], Awaitable[Child]], drain: float) -> None:
        self._crew = crew
        self._launch = launch
        self._drain = drain
        self._one_at_a_time = anyio.Lock()

    async def replace(self, slot: Slot, child: Child | None = None) -> bool:
        """Replace one worker: the slot's, or that one if it is still there.

        Returns whether its successor is at work.
        """
        async with self._one_at_a_time:
            if child is not None and slot.child is not child:
                return True
            return await self._replace(slot)

    async def await_end(self, child: Child) -> None:
        """Wait for the end of one that was asked to stop; make one at the deadline."""
        with anyio.move_on_after(self._drain):
            await child.ended.wait()
            return
        await child.kill(f"it was not done {self._drain:g} s after it was asked to stop")
        await child.ended.wait()

    async def _replace(self, slot: Slot) -> bool:
        old = slot.child
        if old is None or old.ended.is_set():
            return True  # it is about to be started again, and takes what is new by itself
        new = await self._launch(slot.place)
        slot.incoming = new
        await _first_of(new.ready, new.ended)
        if new.ended.is_set():
            if slot.incoming is new:
                slot.incoming = None
            if self._crew.stopping:
                return True
            log.error("%s: its successor did not start: %s", new.name, new.describe_end())
            return False
        if slot.incoming is new:
            slot.promote()
        if self._crew.stopping:
            return True
        log.info("%s: process %d takes over from %d", new.name, new.pid, old.pid)
        old.stop()
        await self.await_end(old)
        return True


async def _first_of(*events: anyio.Event) -> None:
    async with anyio.create_task_group() as tasks:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        for event in events:
            tasks.start_soon(wait, event)
