"""Messages between a supervisor and its workers, and the channel that carries them.

Each message is one line of JSON. The supervisor writes a `WorkerSpec` to the worker's standard input; the
end of that stream means that the supervisor has ended. The worker writes a `WorkerReport` to its original
standard output every `REPORT_INTERVAL` seconds, and whenever its state changes. Counters are totals since
the start of the worker.
"""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, Final, Literal

import msgspec

REPORT_INTERVAL: Final = 0.5
"""Seconds between two reports."""

COUNTERS: Final = (
    "received",
    "completed",
    "published",
    "dead_letters",
    "duplicates",
    "stale",
    "retries",
    "calls",
    "abandoned",
)
"""Fields of `HandlerCounters` that are integers; `runtime.stats.Stats` has them under the same names."""

WorkerState = Literal["starting", "waiting", "ready", "draining", "failed"]
"""State of a worker: it imports the bus and loads models; it waits for its broker; it handles events; it
finishes the events in flight; it could not start."""

_PR_SET_PDEATHSIG: Final = 1


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Specification of one worker, sent by its supervisor.

    Attributes:
        name: Name of the worker, for its log lines and metrics: `worker-1`, or `duration-1` where it runs
            that handler alone.
        bus: Import path of the bus, MODULE:BUS.
        supervisor: Process id of the supervisor, which fills it in when it starts the worker.
        handlers: Names of the handlers to run; empty for all of them.
        backend: Backend URL from the command line, or None to take it from the configuration.
        until_idle: Stop after this many idle seconds; None to run until stopped.
        json_logs: Whether log lines are JSON objects.
        factory: Dotted name (`package.module:function`) of the `WorkerFactory` that makes the worker;
            None for a worker that reads streams.
        loop_options: Backend options of `anyio.run`, such as `{"use_uvloop": True}`.
        listener: File descriptor of a listening socket that the worker inherits, or None.
        operations: Address of the supervisor's operations port, or None if it has none.
        without_token: Whether the web service answers requests that carry no token.
    """

    name: str
    bus: str
    supervisor: int = 0
    handlers: tuple[str, ...] = ()
    backend: str | None = None
    until_idle: float | None = None
    json_logs: bool = False
    factory: str | None = None
    loop_options: dict[str, Any] = {}
    listener: int | None = None
    operations: str | None = None
    without_token: bool = False


class HistogramSnapshot(msgspec.Struct, frozen=True):
    """Contents of a `runtime.histogram.Histogram`: the count of each bucket, and the sum of all values."""

    counts: list[float]
    sum: float

    def __add__(self, other: "HistogramSnapshot") -> "HistogramSnapshot":
        counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return HistogramSnapshot(counts, self.sum + other.sum)


class HandlerCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one handler since its worker started; see `runtime.stats.Stats`. They can be added."""

    received: int = 0
    completed: int = 0
    published: int = 0
    dead_letters: int = 0
    duplicates: int = 0
    stale: int = 0
    retries: int = 0
    calls: int = 0
    abandoned: int = 0
    latency: HistogramSnapshot | None = None
    batch: HistogramSnapshot | None = None
    stages: dict[str, HistogramSnapshot] = {}

    def __add__(self, other: "HandlerCounters") -> "HandlerCounters":
        stages = dict(self.stages)
        for stage, histogram in other.stages.items():
            stages[stage] = stages[stage] + histogram if stage in stages else histogram
        return HandlerCounters(
            **{name: getattr(self, name) + getattr(other, name) for name in COUNTERS},
            latency=_added(self.latency, other.latency),
            batch=_added(self.batch, other.batch),
            stages=stages,
        )


class HandlerProgress(msgspec.Struct, frozen=True):
    """Progress of one handler at the time of a report.

    Attributes:
        handler: Name of the handler.
        in_flight: Events received and not completed.
        quiet: Seconds since the last progress: an arrival, the start or end of a call, a completion, or an
            attempt to reach the broker.
        oldest: Seconds since the oldest event in flight arrived.
        hung: Calls past their timeout whose threads are still running.
        hung_for: Seconds since the first of those calls timed out.
    """

    handler: str
    in_flight: int
    quiet: float
    oldest: float
    hung: int = 0
    hung_for: float = 0.0


class LoadedModel(msgspec.Struct, frozen=True):
    """Name and version of a model that a worker has loaded."""

    name: str
    version: str


class HandlerReport(msgspec.Struct, frozen=True, kw_only=True):
    """State of one handler in one worker.

    Attributes:
        group: Consumer group.
        topic: Topic that it reads.
        to: Topic of its outputs, or None.
        counters: Counters since the start of the worker.
        progress: Progress at the time of the report.
        lag: Unfinished records of the group when last read; None if unknown.
        model: Its model, if it has one.
    """

    group: str
    topic: str
    to: str | None
    counters: HandlerCounters
    progress: HandlerProgress
    lag: int | None = None
    model: LoadedModel | None = None


class WorkerReport(msgspec.Struct, kw_only=True):
    """State of a worker.

    Attributes:
        state: See `WorkerState`.
        reason: Why it failed, or the error that it got from the broker it waits for.
        connected: Whether it reaches its broker.
        handlers: Its handlers by name, once it is ready.
    """

    state: WorkerState
    reason: str = ""
    connected: bool = True
    handlers: dict[str, HandlerReport] = {}

    @property
    def has_received(self) -> bool:
        """Whether any event has arrived since the worker started."""
        return any(handler.counters.received for handler in self.handlers.values())

    @property
    def has_completed(self) -> bool:
        """Whether any event has been completed since the worker started."""
        return any(handler.counters.completed for handler in self.handlers.values())


class SupervisorChannel:
    """A worker's channel to its supervisor.

    It takes over standard input and output for its messages; whatever the app prints goes to standard error,
    and so to the log. Create it before anything else: it reads the spec.

    The worker does not outlive its supervisor. On Linux the kernel kills it (SIGKILL) when the supervisor
    ends, for whatever reason. Elsewhere a thread exits the process at the end of standard input; it cannot
    do so while the process is stopped or foreign code holds the interpreter lock.

    Attributes:
        spec: What the supervisor wants this worker to run.
    """

    def __init__(self) -> None:
        self._output = os.dup(1)
        os.dup2(2, 1)
        os.set_blocking(self._output, False)  # a supervisor that does not read must not block the worker
        self._unsent = b""
        self._input = os.dup(0)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device, not a path
            os.dup2(nothing.fileno(), 0)
        self.spec = msgspec.json.decode(self._read_line(), type=WorkerSpec)
        _die_with(self.spec.supervisor)
        threading.Thread(target=self._exit_at_end, name="supervisor watch", daemon=True).start()

    def send(self, report: WorkerReport) -> None:
        """Send a report, or skip it while the supervisor has not read the earlier ones."""
        if not self._unsent:
            self._unsent = msgspec.json.encode(report) + b"\n"
        with suppress(BlockingIOError, BrokenPipeError):
            while self._unsent:
                self._unsent = self._unsent[os.write(self._output, self._unsent) :]

    def _read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(self._input, 1)
            if not part:
                sys.exit("a worker is started by its supervisor: use `eventml run MODULE:BUS --workers N`")
            line += part
        return line

    def _exit_at_end(self) -> None:
        while os.read(self._input, 1024):
            pass
        os._exit(1)


def _die_with(supervisor: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it ended before the call above
        os._exit(1)


def _added(one: HistogramSnapshot | None, other: HistogramSnapshot | None) -> HistogramSnapshot | None:
    return one + other if one is not None and other is not None else one or other
