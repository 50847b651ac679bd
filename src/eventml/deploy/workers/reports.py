"""What a supervisor and its workers say to each other: a line of JSON each.

A worker is given its orders on standard input, in one line; the end of that stream means that its
supervisor is gone. It answers with reports on what was its standard output: twice a second, and
whenever its state changes. Counters are totals since the worker's start.
"""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
from collections.abc import Iterable

import msgspec

from eventml.deploy.workers.liveness import Progress, State

EVERY = 0.5
"""Seconds between two reports."""

STAGES = ("receive", "decode", "call", "encode", "complete")

COUNTERS = (
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
"""The fields of `Tally` that are counters of `runtime.stats.Stats` by the same name."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to do.

    Attributes:
        supervisor: The process id of the one who orders it.
        name: The worker's name, for its log.
        bus: Where the bus is: MODULE:BUS.
        backend: The URL that the command line names; None is what configuration says.
        only: The handlers to run; all of them where there are none.
        until_idle: As `eventml run --until-idle`.
        json_logs: Log lines are JSON objects.
        listener: The file descriptor of a socket to serve predictors on; None where streams are read.
        operations: Where the supervisor's operations port is, if it has one.
        everybody: As `service.Plan.everybody`.
    """

    supervisor: int
    name: str
    bus: str
    backend: str | None = None
    only: tuple[str, ...] = ()
    until_idle: float | None = None
    json_logs: bool = False
    listener: int | None = None
    operations: str | None = None
    everybody: bool = False


class Counts(msgspec.Struct):
    """A histogram's content; see `runtime.histogram.Histogram`."""

    counts: list[float]
    sum: float

    def add(self, other: "Counts") -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Tally(msgspec.Struct, kw_only=True):
    """What one handler has done since its worker started: `runtime.stats.Stats` as far as it adds up."""

    received: int = 0
    completed: int = 0
    published: int = 0
    dead_letters: int = 0
    duplicates: int = 0
    stale: int = 0
    retries: int = 0
    calls: int = 0
    abandoned: int = 0
    latency: Counts | None = None
    batch: Counts | None = None
    stages: dict[str, Counts] = {}

    def add(self, other: "Tally") -> None:
        for field in COUNTERS:
            setattr(self, field, getattr(self, field) + getattr(other, field))
        self.latency = _sum(self.latency, other.latency)
        self.batch = _sum(self.batch, other.batch)
        for stage, counts in other.stages.items():
            added = _sum(self.stages.get(stage), counts)
            if added is not None:
                self.stages[stage] = added


class ModelInUse(msgspec.Struct, frozen=True):
    """A model that a worker has loaded.

    Attributes:
        name: The model's.
        version: The model's.
        path: Its file, where it came from one.
        stamp: What the file was like before it was loaded; see `rolling.stamp`.
    """

    name: str
    version: str
    path: str | None = None
    stamp: str = ""


class HandlerReport(msgspec.Struct, kw_only=True):
    """One handler at work in one worker.

    Attributes:
        group: Its consumer group.
        topic: What it reads.
        to: Where its outputs go.
        tally: Its counters.
        progress: How it gets on.
        lag: Its group's unfinished records, when that was last asked; None where it cannot be told.
        model: Its model, if it has one.
    """

    group: str
    topic: str
    to: str | None
    tally: Tally
    progress: Progress
    lag: int | None = None
    model: ModelInUse | None = None


class Report(msgspec.Struct, kw_only=True):
    """A worker's state.

    Attributes:
        state: What it is doing.
        reason: Why it failed, or what it waits for.
        connected: Whether it reaches its broker.
        handlers: By name, once it is ready.
    """

    state: State
    reason: str = ""
    connected: bool = True
    handlers: dict[str, HandlerReport] = {}

    @property
    def received(self) -> bool:
        """Whether anything has come since its start."""
        return any(handler.tally.received for handler in self.handlers.values())

    @property
    def worked(self) -> bool:
        """Whether it has finished anything since its start."""
        return any(handler.tally.completed for handler in self.handlers.values())


def total(tallies: Iterable[Tally]) -> Tally:
    """All of them together."""
    together = Tally()
    for tally in tallies:
        together.add(tally)
    return together


def model_files(reports: Iterable[Report]) -> dict[str, set[str]]:
    """The files that the workers' models came from: by path, what they were like when they were loaded."""
    found: dict[str, set[str]] = {}
    for report in reports:
        for handler in report.handlers.values():
            if handler.model is not None and handler.model.path is not None:
                found.setdefault(handler.model.path, set()).add(handler.model.stamp)
    return found


def _sum(one: Counts | None, other: Counts | None) -> Counts | None:
    if one is None or other is None:
        given = one or other
        return None if given is None else Counts(list(given.counts), given.sum)
    together = Counts(list(one.counts), one.sum)
    together.add(other)
    return together
