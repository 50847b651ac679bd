"""Status of a service: what its workers report, and what the operations port shows of it."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio
import msgspec

from eventml.bus import Bus
from eventml.deploy.workers.ipc import (
    COUNTERS,
    HandlerCounters,
    HandlerProgress,
    HandlerReport,
    HistogramSnapshot,
    LoadedModel,
    WorkerSpec,
    WorkerState,
)
from eventml.runtime import Histogram, LoadedHandler, Stats


class RunningWorker(Protocol):
    """A worker that a process runs: `runtime.Worker` for streams, `deploy.web.WebWorker` for requests."""

    @property
    def handlers(self) -> Sequence[LoadedHandler]:
        """Its handlers, with their models."""

    @property
    def stats(self) -> Mapping[str, Stats]:
        """Counters of each handler, by its name."""

    @property
    def ready(self) -> anyio.Event:
        """Set once the worker receives events or requests."""

    @property
    def in_flight(self) -> int:
        """Events or requests received and not completed."""

    async def lag(self) -> dict[str, int | None]:
        """Unfinished records of each handler's group, by handler; None where the backend cannot tell."""

    async def run(self) -> bool:
        """Work until stopped. Returns whether everything in flight was finished in time."""

    def stop(self) -> None:
        """Receive nothing more, finish what is in flight, and return from `run`."""

    def abandon(self) -> None:
        """Abandon what is in flight, and return from `run`."""


class WorkerFactory(Protocol):
    """Makes the worker of a process; `WorkerSpec.factory` names one."""

    def __call__(self, bus: Bus, spec: WorkerSpec) -> AbstractAsyncContextManager[RunningWorker]:
        """Connect the bus, load the models, and give a worker that has not been run yet.

        Raises:
            UnavailableError: the broker cannot be reached; the process waits and calls again.
        """
        ...


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of one worker process.

    Attributes:
        name: Name of the worker; two processes share it while one replaces the other.
        pid: Process id; 0 between two processes.
        state: See `WorkerState`; "restarting" between two processes.
        reason: Why it waits or failed, or how its last process ended.
        connected: Whether it reaches its broker.
        uptime: Seconds since the process was started.
        restarts: How many times the worker has been restarted after a crash.
        handlers: Its handlers by name, once it is ready.
    """

    name: str
    pid: int
    state: WorkerState | str
    reason: str = ""
    connected: bool = True
    uptime: float = 0.0
    restarts: int = 0
    handlers: dict[str, HandlerReport] = {}


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of a service.

    Attributes:
        bus: Name of the bus.
        workers: All worker processes, and the workers that have none at the moment.
        ended: Summed counters of the processes that have ended, by handler.
        stopping: Whether the service is stopping.
        stuck: Why the service is not alive; empty while it is.
        rolling_restarts: How many rolling restarts it has completed.
    """

    bus: str
    workers: Sequence[WorkerStatus]
    ended: dict[str, HandlerCounters] = {}
    stopping: bool = False
    stuck: str = ""
    rolling_restarts: int = 0


def handler_reports(worker: RunningWorker, lags: Mapping[str, int | None]) -> dict[str, HandlerReport]:
    """Report on each handler of a running worker. Its cost is per report, never per event.

    Args:
        worker: A worker that is ready.
        lags: Lag of each handler's group, by handler; a handler that is missing has an unknown lag.
    """
    return {
        name: _handler_report(job, worker.stats[name], lags.get(name))
        for job in worker.handlers
        for name in [job.handler.name]
    }


def total_counters(status: ServiceStatus) -> dict[str, HandlerCounters]:
    """Sum the counters of each handler over all processes, including those that have ended."""
    totals = dict(status.ended)
    for worker in status.workers:
        for name, handler in worker.handlers.items():
            totals[name] = totals.get(name, HandlerCounters()) + handler.counters
    return dict(sorted(totals.items()))


def group_lags(status: ServiceStatus) -> dict[str, int | None]:
    """Lag of each handler's group, as reported by the first worker that knows it; None if none does."""
    lags: dict[str, int | None] = {}
    for worker in status.workers:
        for name, handler in worker.handlers.items():
            if lags.get(name) is None:
                lags[name] = handler.lag
    return lags


def unready_reasons(status: ServiceStatus, max_lag: int | None) -> list[str]:
    """List why the service is not ready; empty if it is.

    Args:
        status: Status of the service.
        max_lag: Highest lag of a group with which the service is ready; None for no limit.
    """
    if status.stopping:
        return ["stopping"]
    reasons = []
    ready = {worker.name for worker in status.workers if worker.state == "ready"}
    for worker in status.workers:
        detail = f": {worker.reason}" if worker.reason else ""
        if worker.name not in ready:
            reasons.append(f"{worker.name} is {worker.state}{detail}")
        elif not worker.connected and worker.state == "ready":
            reasons.append(f"{worker.name} does not reach its broker")
    if max_lag is not None:
        for name, lag in group_lags(status).items():
            if lag is None:
                reasons.append(f"{name}: its lag is unknown")
            elif lag > max_lag:
                reasons.append(f"{name} has a lag of {lag} events, more than --max-lag {max_lag}")
    return reasons


def _handler_report(job: LoadedHandler, stats: Stats, lag: int | None) -> HandlerReport:
    handler, now = job.handler, time.monotonic()
    arrived, hung = stats.oldest_arrival, stats.hung
    return HandlerReport(
        group=handler.options.group,
        topic=handler.topic,
        to=handler.to,
        counters=HandlerCounters(
            **{name: getattr(stats, name) for name in COUNTERS},
            latency=_snapshot(stats.latency),
            batch=_snapshot(stats.batch),
            stages={str(stage): _snapshot(histogram) for stage, histogram in list(stats.stages.items())},
        ),
        progress=HandlerProgress(
            handler=handler.name,
            in_flight=stats.in_flight,
            quiet=now - stats.last_progress,
            oldest=0.0 if arrived is None else now - arrived,
            hung=len(hung),
            hung_for=now - min(hung, default=now),
        ),
        lag=lag,
        model=None if job.model is None else LoadedModel(job.model.name, job.model.version),
    )


def _snapshot(histogram: Histogram) -> HistogramSnapshot:
    return HistogramSnapshot(list(histogram.counts), histogram.sum)
