"""What operators are told of a service: its workers now, and what all of them have done together."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
from collections.abc import Sequence

import msgspec

from eventml.deploy.workers.liveness import State
from eventml.deploy.workers.reports import HandlerReport, Tally, total


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker, as it is now.

    Attributes:
        name: Its name; two have the same while one takes over from the other.
        pid: Its process.
        state: What it is doing; "restarting" between two processes.
        reason: What it waits for, or why it is between two processes.
        connected: Whether it reaches its broker.
        uptime: Seconds since its process was started.
        restarts: How often its process has been started again after a crash.
        handlers: What they report.
    """

    name: str
    pid: int
    state: State | str
    reason: str = ""
    connected: bool = True
    uptime: float = 0.0
    restarts: int = 0
    handlers: dict[str, HandlerReport] = {}


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A service, as it is now.

    Attributes:
        bus: Its bus's name.
        workers: All that are or should be there.
        retired: What workers did that are gone, by handler.
        stopping: Whether it is about to end.
        stuck: Why it cannot be called alive; empty while it can.
        rolls: How often its workers have been replaced by new ones, one after the other.
    """

    bus: str
    workers: Sequence[WorkerStatus]
    retired: dict[str, Tally] = {}
    stopping: bool = False
    stuck: str = ""
    rolls: int = 0


def totals(status: Status) -> dict[str, Tally]:
    """What each handler has done, in all workers that are and have been."""
    names = sorted({*status.retired, *(name for worker in status.workers for name in worker.handlers)})
    return {
        name: total(
            [
                *(tally for handler, tally in status.retired.items() if handler == name),
                *(worker.handlers[name].tally for worker in status.workers if name in worker.handlers),
            ]
        )
        for name in names
    }


def lags(status: Status) -> dict[str, int | None]:
    """Each group's unfinished records, by handler, as the first worker sees it that can tell."""
    found: dict[str, int | None] = {}
    for worker in status.workers:
        for name, handler in worker.handlers.items():
            if found.get(name) is None:
                found[name] = handler.lag
    return found


def unready(status: Status, max_lag: int | None) -> list[str]:
    """Why the service is not ready; nothing where it is.

    Args:
        status: The service.
        max_lag: The most unfinished records that a group may have; None is any number.
    """
    if status.stopping:
        return ["stopping"]
    problems = []
    ready = {worker.name for worker in status.workers if worker.state == "ready"}
    for worker in status.workers:
        why = f": {worker.reason}" if worker.reason else ""
        if worker.name not in ready:
            problems.append(f"{worker.name} is {worker.state}{why}")
        elif not worker.connected and worker.state == "ready":
            problems.append(f"{worker.name} does not reach its broker")
    if max_lag is not None:
        for name, lag in lags(status).items():
            if lag is None:
                problems.append(f"{name}: its lag is not known")
            elif lag > max_lag:
                problems.append(f"{name} is {lag} events behind, more than {max_lag}")
    return problems
