"""The messages between a supervisor and its workers, and the status of the service that follows from them.

A supervisor writes a `WorkerSpec` to the standard input of a worker. The worker writes a `WorkerReport` to
its standard output every `REPORT_INTERVAL` seconds, and whenever its state changes. Each is a line of JSON.
Counters are totals since the start of the worker.
"""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import anyio
import msgspec

from eventml.bus import Bus
from eventml.runtime import Histogram, LoadedHandler, OutageLog, Profile, Stats

REPORT_INTERVAL: Final = 0.5  # seconds

BREAKER_OPEN: Final = 65
"""Exit status of a process that was to run until idle and has a handler of which most events fail: EX_DATAERR
of sysexits.h."""

WorkerState = Literal["starting", "waiting", "ready", "draining", "failed", "restarting"]
"""State of a worker: it imports the bus and loads models; it waits for its broker; it handles events; it
finishes the events in flight; it could not start; its process has ended, and the next one has not started."""


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that all workers of a service have in common.

    Attributes:
        bus: Import path of the bus, MODULE:BUS.
        backend: Backend URL from the command line, or None to take it from the configuration.
        until_idle: Stop after this many idle seconds; None to run until stopped.
        factory: Dotted name (`package.module:function`) of the `WorkerFactory` that makes the worker;
            None for a worker that reads streams.
        loop_options: Backend options of `anyio.run`, such as `{"use_uvloop": True}`.
        without_token: Whether the web service answers requests that carry no token.
    """

    bus: str
    backend: str | None = None
    until_idle: float | None = None
    json_logs: bool = False
    factory: str | None = None
    loop_options: dict[str, Any] = {}
    without_token: bool = False


class WorkerSpec(WorkerOptions, frozen=True, kw_only=True):
    """Specification of one worker, sent by its supervisor.

    Attributes:
        name: Name of the worker, for its log lines and metrics: `worker-1`, or `duration-1` where it runs
            that handler alone.
        handlers: Names of the handlers to run; empty for all of them.
        listener: File descriptor of a listening socket that the worker inherits, or None.
        supervisor: Process id of the supervisor, which fills it in when it starts the worker.
        operations: Address of the supervisor's operations port, or None if it has none.
        member: Name of the process as a member of groups. What replaces a dead process has its name.
    """

    name: str
    handlers: tuple[str, ...] = ()
    listener: int | None = None
    supervisor: int = 0
    operations: str | None = None
    member: str = ""


class RunningWorker(Protocol):
    """A worker that a process runs: `runtime.Worker` for streams, `deploy.web.WebWorker` for requests."""

    handlers: Sequence[LoadedHandler]
    stats: dict[str, Stats]  # by the names of the handlers
    outages: OutageLog
    ready: anyio.Event  # set once the worker receives events or requests

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


WorkerFactory = Callable[[Bus, WorkerSpec], AbstractAsyncContextManager[RunningWorker]]
"""Connects the bus, loads the models, and gives a worker that has not been run yet. If it raises
`UnavailableError`, because the broker cannot be reached, the process waits and calls it again."""


Totals = dict[str, list[float]]
"""Counters and histograms of one handler since its worker started, by their names in `runtime.Stats`. A
counter is a list of one number; a histogram has the count of each bucket, and then the sum of its values.
`bounds`, neither of them, has the upper bounds of the buckets of both histograms of predictions."""


def add_totals(one: Totals, other: Totals) -> Totals:
    """Return the sum of the totals of a handler in two workers.

    Predictions of `other` are left out if their bounds differ, as after a change of the golden rows.
    """
    if "bounds" in one and one["bounds"] != other.get("bounds"):
        other = {name: values for name, values in other.items() if "predictions" not in name}
    both = one.keys() & other.keys() - {"bounds"}
    return other | one | {name: [*map(sum, zip(one[name], other[name], strict=False))] for name in both}


class HandlerReport(msgspec.Struct, frozen=True, kw_only=True):
    """State of one handler in one worker, at the time of the report.

    Attributes:
        in_flight: Events received and not completed.
        quiet: Seconds since the last progress: an arrival, the start or end of a call, a completion, or an
            attempt to reach the broker.
        oldest: Seconds since the oldest event in flight arrived.
        hung: Calls past their timeout whose threads are still running.
        hung_for: Seconds since the first of those calls timed out.
        failing: The steps that fail at the broker, as in `Stats`: seconds since when, and the last error.
        breaker_open: Why it has stopped taking events, as in `Stats`.
        lag: Unfinished records of the group when last read; None if unknown.
        model: Name and version of its model.
        model_age: Seconds since this version was taken over, or since the start.
        model_refused: Why a newer version is not used, or the canary is worse, as in `Stats`.
        canary: Name and version of the canary's model, if it has one.
        canary_share: The share of the keys that the canary answers for.
        profile: The predictions that are recorded for it, and the bounds of the histograms of predictions.
    """

    group: str
    totals: Totals = {}
    in_flight: int = 0
    quiet: float = 0.0
    oldest: float = 0.0
    hung: int = 0
    hung_for: float = 0.0
    failing: dict[str, tuple[float, str]] = {}
    breaker_open: str = ""
    lag: int | None = None
    model: tuple[str, str] | None = None
    model_age: float = 0.0
    model_refused: str = ""
    canary: tuple[str, str] | None = None
    canary_share: float = 0.0
    profile: Profile = Profile()


FailureCause = Literal["", "unavailable", "refused", "permanent"]


class WorkerReport(msgspec.Struct, kw_only=True):
    """State of a worker.

    Attributes:
        reason: Why it failed, or the error that it got from the broker it waits for.
        cause: What made it fail: the broker could not be reached or was not ready (`unavailable`), refused
            something (`refused`), something that no restart mends (`permanent`), or anything else.
        connected: Whether it reaches its broker.
        outages: What fails at the broker, as in `OutageLog.current`.
        handlers: Its handlers by name, once it is ready.
    """

    state: WorkerState
    reason: str = ""
    cause: FailureCause = ""
    connected: bool = True
    outages: Mapping[str, str] = {}
    handlers: dict[str, HandlerReport] = {}

    def has_any(self, counter: str) -> bool:
        """Return whether a counter of any handler is not 0."""
        return any(handler.totals.get(counter, [0])[0] for handler in self.handlers.values())


class WorkerStatus(WorkerReport, kw_only=True):
    """Status of one worker process: its last report, and what its supervisor knows of it.

    `reason` also says how its last process ended, where it has none.

    Attributes:
        name: Name of the worker; two processes share it while one replaces the other.
        pid: Process id; 0 between two processes.
        uptime: Seconds since the start of the process.
        unchanged: Seconds since the first report of its state, or since its start.
        silence: Seconds since the last report.
        restarts: How many times the worker has been restarted after a crash.
        memory: Resident memory of the process in bytes; None if the system does not tell.
    """

    name: str
    pid: int
    uptime: float = 0.0
    unchanged: float = 0.0
    silence: float = 0.0
    restarts: int = 0
    memory: int | None = None


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of a service.

    Attributes:
        workers: All worker processes, and the workers that have none at the moment.
        ended: Summed totals of the processes that have ended, by handler.
        stuck: Why the service is not alive; empty while it is.
        rolling_restarts: How many it has completed.
        dead_letters: By handler, the dead letters of its group that are left: neither replayed nor dropped.
            A handler is missing while that is unknown; the console counts them.
        unready: Why the service is not ready, for those who read the status from afar.
    """

    bus: str
    workers: Sequence[WorkerStatus]
    ended: dict[str, Totals] = {}
    stopping: bool = False
    stuck: str = ""
    rolling_restarts: int = 0
    dead_letters: Mapping[str, int] = {}
    unready: Sequence[str] = ()


def handler_totals(status: ServiceStatus) -> dict[str, Totals]:
    """Return the totals of each handler, of all processes of a service, those that have ended included."""
    totals: dict[str, Totals] = {}
    for worker in sorted(status.workers, key=lambda one: one.uptime):  # the newest has the bounds that count
        for name, handler in worker.handlers.items():
            totals[name] = add_totals(totals.get(name, {}), handler.totals)
    both = totals | status.ended
    return {name: add_totals(totals.get(name, {}), status.ended.get(name, {})) for name in both}


def resident_memory(pid: int) -> int | None:
    """Return the resident memory of a process in bytes; None without `/proc`, or if it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def handler_reports(worker: RunningWorker, lags: Mapping[str, int | None]) -> dict[str, HandlerReport]:
    """Report on each handler of a worker that is ready. The cost is per report, never per event.

    A handler that is missing in `lags` has an unknown lag.
    """
    return {loaded.handler.name: _handler_report(loaded, worker.stats, lags) for loaded in worker.handlers}


def _handler_report(
    loaded: LoadedHandler, all_stats: Mapping[str, Stats], lags: Mapping[str, int | None]
) -> HandlerReport:
    now, name = time.monotonic(), loaded.handler.name
    stats = all_stats[name]
    arrived, hung = stats.oldest_arrival, stats.hung
    histograms: dict[str, Histogram] = {"latency": stats.latency, "batch": stats.batch}
    histograms |= {str(stage): histogram for stage, histogram in list(stats.stages.items())}
    predicted = {"predictions": stats.predictions, "canary_predictions": stats.canary_predictions}
    histograms |= {name: one for name, one in predicted.items() if any(one.counts)}
    counters = {name: [float(count)] for name, count in vars(stats).items() if isinstance(count, int)}
    counters |= {"lost": [float(stats.lost)], "bounds": [*loaded.profile.bounds]}
    return HandlerReport(
        group=loaded.handler.options.group,
        totals=counters | {name: [*one.counts, one.sum] for name, one in histograms.items()},
        in_flight=stats.in_flight,
        quiet=now - stats.last_progress,
        oldest=0.0 if arrived is None else now - arrived,
        hung=len(hung),
        hung_for=now - min(hung, default=now),
        breaker_open=stats.breaker_open,
        failing={step: (now - one.since, one.error) for step, one in list(stats.failing.items())},
        lag=lags.get(name),
        model=None if loaded.model is None else (loaded.model.name, loaded.model.version),
        model_age=now - stats.model_since,
        model_refused=stats.model_refused or stats.canary_worse,
        canary=None if loaded.canary is None else (loaded.canary.name, loaded.canary.version),
        canary_share=stats.canary_share,
        profile=loaded.profile,
    )
