"""Health of a worker: when it counts as dead or hung, and the health checks of a worker in this process.

A worker reports to its supervisor from its event loop, so a report that arrives proves that the loop runs.
The report itself says how long each handler has had events in flight without progress. A worker that waits
for its broker, or that retries because a database is down, makes progress in this sense: killing it would
not help.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from eventml.deploy.workers.ipc import HandlerProgress, WorkerState
from eventml.deploy.workers.logs import LogRateLimit
from eventml.deploy.workers.operations import HostPort, OperationsEndpoints, serve_endpoints
from eventml.deploy.workers.status import RunningWorker, ServiceStatus, WorkerStatus, handler_reports
from eventml.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

log = logging.getLogger("eventml")
_lag_log = logging.getLogger("eventml.lag")
_lag_log.addFilter(LogRateLimit(60.0, exempt=None))

_TICK: Final = 0.5  # seconds
_LAG_INTERVAL: Final = 2.0  # seconds
_LAG_VALID: Final = 10.0  # seconds: an older lag is reported as unknown


class HealthLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in seconds after which a worker is killed or replaced.

    Attributes:
        boot_grace: Kill a worker that is not ready this long after its start. Time spent waiting for the
            broker does not count.
        silent_after: Kill a worker without any report for this long once it has been ready: something
            blocks its event loop.
        stuck_after: Kill a worker with events in flight and no progress for this long. It bounds a single
            call, so keep it above the slowest batch.
        hung_after: Replace a worker with a call still running this long after its `timeout`: a thread
            cannot be stopped, but its process can.
    """

    boot_grace: float = 120.0
    silent_after: float = 20.0
    stuck_after: float = 300.0
    hung_after: float = 30.0


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Health of a worker as last reported. Times are of the supervisor's monotonic clock, in seconds.

    Attributes:
        state: State in the last report.
        since: Time of the first report of that state, or of the worker's start.
        reported: Time of the last report.
        progress: Progress of each handler in the last report.
    """

    state: WorkerState
    since: float
    reported: float
    progress: Sequence[HandlerProgress] = ()


def kill_reason(health: WorkerHealth, limits: HealthLimits, now: float) -> str | None:
    """Return why the worker must be killed and restarted; None if it need not be.

    A worker that drains has a deadline of its own, and one that has failed ends by itself.
    """
    if health.state == "starting":
        if now - health.since > limits.boot_grace:
            return f"not ready within {limits.boot_grace:g} s; allow a slow model more time with --boot-grace"
        return None
    if health.state not in ("ready", "waiting"):
        return None
    silence = now - health.reported
    if silence > limits.silent_after:
        return f"no report for {silence:.0f} s: something blocks its event loop"
    for handler in health.progress:
        quiet = handler.quiet + silence
        if handler.in_flight and quiet > limits.stuck_after:
            return (
                f"{handler.handler} has made no progress for {quiet:.0f} s, with {handler.in_flight} events "
                f"in flight, the oldest for {handler.oldest + silence:.0f} s; set "
                f"consumer.{handler.handler}.timeout to limit a call"
            )
    return None


def replace_reason(health: WorkerHealth, limits: HealthLimits, now: float) -> str | None:
    """Return why the worker must be replaced, draining as usual; None if it need not be."""
    if health.state != "ready":
        return None
    silence = now - health.reported
    for handler in health.progress:
        hung_for = handler.hung_for + silence
        if handler.hung and hung_for > limits.hung_after:
            return (
                f"{handler.handler} has {handler.hung} threads that still run after its timeout and cannot "
                f"be stopped, the first for {hung_for:.0f} s"
            )
    return None


class LagMonitor:
    """Reads the lags of a running worker every few seconds.

    Args:
        worker: Worker whose groups to read.
    """

    def __init__(self, worker: RunningWorker) -> None:
        self._worker = worker
        self._lags: dict[str, int | None] = {}
        self._reachable = self._running = True
        self._updated = time.monotonic()

    @property
    def lags(self) -> dict[str, int | None]:
        """Lag of each handler's group, by handler. Unknown lags are None or missing."""
        return self._lags if self._fresh else {}

    @property
    def connected(self) -> bool:
        """Whether the broker answered when last asked."""
        return self._reachable and self._fresh

    def stop(self) -> None:
        """Stop reading: the worker is about to close its subscriptions."""
        self._running = False

    async def run(self) -> None:
        """Read the lags, from when the worker is ready until stopped or cancelled."""
        await self._worker.ready.wait()
        self._updated = time.monotonic()
        while self._running:
            await self._update()
            await anyio.sleep(_LAG_INTERVAL)

    @property
    def _fresh(self) -> bool:
        return not self._worker.ready.is_set() or time.monotonic() - self._updated < _LAG_VALID

    async def _update(self) -> None:
        try:
            self._lags = await self._worker.lag()
            self._reachable = True
        except Exception as exc:  # noqa: BLE001 - an error in counting must not stop the worker
            self._lags = {}
            self._reachable = not isinstance(exc, UnavailableError)
            if self._running:
                expected = isinstance(exc, UnavailableError)
                _lag_log.warning(
                    "the lag is unknown: %s: %s", type(exc).__name__, exc, exc_info=None if expected else exc
                )
        self._updated = time.monotonic()


class InProcessHealth:
    """Health of a worker that runs in this process, without a supervisor.

    Args:
        bus: Name of the bus.
        worker: The worker.
        limits: Limits after which `/livez` fails.
    """

    def __init__(self, bus: str, worker: RunningWorker, limits: HealthLimits) -> None:
        self._bus = bus
        self._worker = worker
        self._limits = limits
        self._lag_monitor = LagMonitor(worker)
        self._started = self._ticked = time.monotonic()

    def status(self) -> ServiceStatus:
        """Return the current status. Any thread may call this."""
        now = time.monotonic()
        ready = self._worker.ready.is_set()
        handlers = handler_reports(self._worker, self._lag_monitor.lags) if ready else {}
        health = WorkerHealth(
            state="ready" if ready else "starting",
            since=self._started,
            reported=self._ticked,
            progress=[handler.progress for handler in handlers.values()],
        )
        worker = WorkerStatus(
            name="worker",
            pid=os.getpid(),
            state=health.state,
            connected=self._lag_monitor.connected,
            uptime=now - self._started,
            handlers=handlers,
        )
        return ServiceStatus(
            bus=self._bus, workers=[worker], stuck=kill_reason(health, self._limits, now) or ""
        )

    async def run(self) -> None:
        """Watch the event loop and read the lags, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._lag_monitor.run)
            while True:
                self._ticked = time.monotonic()
                await anyio.sleep(_TICK)


@asynccontextmanager
async def serve_operations(
    bus: str,
    worker: RunningWorker,
    address: HostPort,
    *,
    max_lag: int | None = None,
    limits: HealthLimits | None = None,
) -> AsyncIterator[HostPort]:
    """Serve the operations port of a worker in this process; yields its address.

    Args:
        bus: Name of the bus.
        worker: The worker.
        address: Address to listen on.
        max_lag: Highest lag of a group with which the worker is ready; None for no limit.
        limits: Limits after which `/livez` fails.

    Raises:
        ConfigError: the address is in use, or does not belong to this machine.
    """
    health = InProcessHealth(bus, worker, limits or HealthLimits())
    with serve_endpoints(OperationsEndpoints(health.status, max_lag=max_lag), address) as bound:
        log.info("operations port: http://%s/readyz, /livez, /metrics", bound)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(health.run)
            yield bound
            tasks.cancel_scope.cancel()
