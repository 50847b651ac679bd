"""The operations port of a bus that runs in this process, without a supervisor."""

from __future__ import annotations

import logging
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from eventml.deploy.workers.liveness import Limits, Signs, why_kill
from eventml.deploy.workers.operations import Operations, serving
from eventml.deploy.workers.snapshots import handler_reports
from eventml.deploy.workers.status import Status, WorkerStatus
from eventml.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.deploy.workers.at_work import AtWork
    from eventml.deploy.workers.operations import Address

log = logging.getLogger("eventml")

_TICK = 0.5  # seconds
_LAG_EVERY = 2.0  # seconds


class Alone:
    """Tells how a worker in this process is.

    Args:
        bus: The bus's name.
        worker: What runs.
        limits: When it cannot be called alive any more.
    """

    def __init__(self, bus: str, worker: AtWork, limits: Limits) -> None:
        self._bus = bus
        self._worker = worker
        self._limits = limits
        self._started = self._ticked = time.monotonic()
        self._lags: dict[str, int | None] = {}
        self._connected = True

    def status(self) -> Status:
        """As it is now. It may be called from any thread."""
        now = time.monotonic()
        ready = self._worker.ready.is_set()
        handlers = handler_reports(self._worker, self._lags) if ready else {}
        signs = Signs(
            state="ready" if ready else "starting",
            since=self._started,
            heard=self._ticked,
            progress=[handler.progress for handler in handlers.values()],
        )
        me = WorkerStatus(
            name="worker",
            pid=os.getpid(),
            state=signs.state,
            connected=self._connected,
            uptime=now - self._started,
            handlers=handlers,
        )
        stuck = why_kill(signs, self._limits, now)
        return Status(bus=self._bus, workers=[me], stuck=stuck or "")

    async def tick(self) -> None:
        """Show that the event loop turns."""
        while True:
            self._ticked = time.monotonic()
            await anyio.sleep(_TICK)

    async def ask_lag(self) -> None:
        """Keep the lags up to date, while the worker runs."""
        await self._worker.ready.wait()
        while True:
            try:
                self._lags = await self._worker.lag()
                self._connected = True
            except Exception as exc:  # noqa: BLE001 - whatever is wrong with counting must not stop the work
                self._connected = not isinstance(exc, UnavailableError)
                self._lags = {}
            await anyio.sleep(_LAG_EVERY)


@asynccontextmanager
async def served(
    bus: str, worker: AtWork, address: Address, *, max_lag: int | None = None, limits: Limits | None = None
) -> AsyncIterator[Address]:
    """Serve the operations port of a worker in this process. Gives its address.

    Raises:
        ConfigError: somebody listens there already.
    """
    alone = Alone(bus, worker, limits or Limits())
    with serving(Operations(alone.status, max_lag=max_lag), address) as chosen:
        log.info("operations port: http://%s/readyz, /livez, /metrics", chosen)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(alone.tick)
            tasks.start_soon(alone.ask_lag)
            yield chosen
            tasks.cancel_scope.cancel()
