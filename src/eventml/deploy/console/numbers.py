"""The numbers of a service: what `eventml top` and the console show, from two statuses of it, and how.

Everything here is a pure function of statuses, whose counters are totals. A number that is not known is None.
"""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from eventml.deploy.workers import (
    HandlerReport,
    ServiceStatus,
    Totals,
    WorkerStatus,
    add_totals,
    group_lags,
    handler_totals,
)
from eventml.runtime import SECONDS_BUCKETS

STAGES = ("receive", "decode", "call", "encode", "complete")


class Snapshot(msgspec.Struct, frozen=True):
    """The status of a service at one moment, in seconds of a monotonic clock."""

    at: float
    status: ServiceStatus


class HandlerNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a handler, by the names of their columns. Times are seconds.

    Rates, `batch`, quantiles and stages are those of the time between two snapshots; quantiles are upper
    bounds, of 99% of the events for `p99`. The stages are the mean time for a batch. `left` are dead letters
    that are neither replayed nor dropped. The others but `lag` and `in_flight` count since the start.
    """

    handler: str
    lag: int | None
    in_flight: int = msgspec.field(name="in flight")
    received: float | None = msgspec.field(name="in/s")
    published: float | None = msgspec.field(name="out/s")
    dead: int
    left: int | None
    lost: int
    retries: int
    batch: float | None
    p50: float | None
    p99: float | None
    receive: float | None
    decode: float | None
    call: float | None
    encode: float | None
    complete: float | None
    stale: int
    duplicate: int
    skipped: int


class WorkerNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """The state and the numbers of a worker, by the names of their columns. Times are seconds.

    `state` is in words: that of each process, and what is wrong. A `ready` worker handles events and reaches
    its broker. `memory` is resident, in bytes. `models` are handlers with the versions of their models.
    """

    worker: str
    state: str
    ready: bool
    up: float
    restarts: int
    in_flight: int = msgspec.field(name="in flight")
    oldest: float
    memory: int | None
    models: Sequence[str]


def handler_numbers(before: Snapshot, now: Snapshot) -> list[HandlerNumbers]:
    """Return the numbers of each handler, sorted by their names."""
    earlier, lags = handler_totals(before.status), group_lags(now.status)
    return [
        _numbers(name, now, total, increase(earlier.get(name, {}), total), now.at - before.at, lags.get(name))
        for name, total in sorted(handler_totals(now.status).items())
    ]


def _numbers(
    name: str, now: Snapshot, total: Totals, rise: Totals, seconds: float, lag: int | None
) -> HandlerNumbers:
    counters = {"dead": "dead_letters", "duplicate": "duplicates"}
    counters |= {counter: counter for counter in ("lost", "retries", "stale", "skipped")}
    numbers: dict[str, Any] = {field: int(total.get(name, [0])[0]) for field, name in counters.items()}
    numbers |= {name: mean(rise.get(name, ())) for name in ("batch", *STAGES)}
    for rate in ("received", "published"):
        numbers[rate] = rise.get(rate, [0])[0] / seconds if seconds > 0 else None
    return HandlerNumbers(
        handler=name,
        lag=lag,
        in_flight=sum(one.handlers[name].in_flight for one in now.status.workers if name in one.handlers),
        left=now.status.dead_letters.get(name),
        p50=quantile(rise.get("latency", ()), 0.5),
        p99=quantile(rise.get("latency", ()), 0.99),
        **numbers,
    )


def increase(before: Totals, now: Totals) -> Totals:
    """Return the increase of each counter and histogram; the value of one that was reset, as a whole."""
    found, differ = Totals(), before.get("bounds") != now.get("bounds")
    for name, values in now.items():
        earlier = [] if differ and "predictions" in name else before.get(name, [])
        counts = values[:-1] or values  # the sum of a histogram of predictions may fall
        reset = len(earlier) != len(values) or any(a < b for a, b in zip(counts, earlier, strict=False))
        found[name] = values if reset else [a - b for a, b in zip(values, earlier, strict=True)]
    return found


def mean(histogram: Sequence[float]) -> float | None:
    """Return the mean of a histogram, given as in `Totals`; None if it is empty."""
    count = sum(histogram[:-1])
    return histogram[-1] / count if count else None


def quantile(histogram: Sequence[float], q: float, bounds: Sequence[float] = SECONDS_BUCKETS) -> float | None:
    """Return the upper bound of the bucket of a quantile: all that a histogram says about it for certain.

    The histogram is given as in `Totals`, and `q` is from 0 to 1. The quantile of an empty histogram is None.
    """
    total, reached = sum(histogram[:-1]), 0.0
    for count, bound in zip(histogram[:-1], [*bounds, math.inf], strict=False):
        reached += count
        if reached and reached >= q * total:
            return bound
    return None


def worker_numbers(status: ServiceStatus) -> list[WorkerNumbers]:
    """Return the numbers of each worker, sorted by their names; two processes of one are one worker."""
    processes: dict[str, list[WorkerStatus]] = {}
    for worker in status.workers:
        processes.setdefault(worker.name, []).append(worker)
    return [_worker(name, processes[name]) for name in sorted(processes)]


def _worker(name: str, processes: Sequence[WorkerStatus]) -> WorkerNumbers:
    reports = [(handler, report) for one in processes for handler, report in one.handlers.items()]
    states = [*dict.fromkeys(one.state for one in processes)]
    connected = all(one.connected for one in processes)
    memory = [one.memory for one in processes if one.memory is not None]
    return WorkerNumbers(
        worker=name,
        state=", ".join(["+".join(sorted(states)), *([] if connected else ["no broker"]), *_wrong(reports)]),
        ready=connected and "ready" in states,
        up=min(one.uptime for one in processes),
        restarts=processes[0].restarts,
        in_flight=sum(report.in_flight for _, report in reports),
        oldest=max((report.oldest for _, report in reports), default=0.0),
        memory=sum(memory) if memory else None,
        models=sorted({f"{handler} {report.model[1]}" for handler, report in reports if report.model}),
    )


def _wrong(reports: Sequence[tuple[str, HandlerReport]]) -> list[str]:
    failing = {name: max((s for s, _ in one.failing.values()), default=0.0) for name, one in reports}
    stopped = [name for name, one in reports if one.breaker_open]
    return [
        *(f"{name} fails for {format_seconds(for_)}" for name, for_ in sorted(failing.items()) if for_ >= 1),
        *(f"{name} has stopped: most of its events fail" for name in sorted(stopped)),
    ]


def changes(before: ServiceStatus, now: ServiceStatus) -> list[str]:
    """Return the events of the workers between two statuses, a line each, for the marks of charts."""
    found = []
    if now.rolling_restarts > before.rolling_restarts:
        found.append("rolling restart completed")
    earlier = {one.worker: one for one in worker_numbers(before)}
    reasons = {worker.name: worker.reason for worker in now.workers}
    for one in worker_numbers(now):
        if (was := earlier.get(one.worker)) is None:
            continue
        if one.restarts > was.restarts:
            why = reasons.get(one.worker)
            found.append(f"{one.worker} restarted" + (f": {why}" if why else ""))
        if one.ready != was.ready:
            found.append(f"{one.worker} is {one.state}")
    versions = loaded_models(before)
    for handler, version in loaded_models(now).items():
        if versions.get(handler, version) != version:
            found.append(f"{handler}: model {_change(versions[handler].split(', '), version.split(', '))}")
    return found


def _change(before: Sequence[str], now: Sequence[str]) -> str:
    """What has happened to the versions of a model; workers differ during a rolling restart."""
    added, gone = (", ".join(one for one in a if one not in b) for a, b in ((now, before), (before, now)))
    if added and gone:
        return f"{added} in place of {gone}"
    return f"{added} beside {', '.join(before)}" if added else f"{', '.join(now)} on all workers"


def loaded_models(status: ServiceStatus) -> dict[str, str]:
    """Return the versions of the models in use, by handler; several while workers are being replaced."""
    found: dict[str, set[str]] = {}
    for worker in status.workers:
        for name, report in worker.handlers.items():
            if report.model is not None:
                found.setdefault(name, set()).add(report.model[1])
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def merged(statuses: Mapping[str, ServiceStatus]) -> ServiceStatus:
    """Return one status of the services of a bus on several ports, by the names of their ports."""
    ended, services, several = dict[str, Totals](), [*statuses.values()], len(statuses) > 1
    for one in services:
        for name, totals in one.ended.items():
            ended[name] = add_totals(ended.get(name, {}), totals)
    return ServiceStatus(
        bus=next((one.bus for one in services), ""),
        workers=[
            msgspec.structs.replace(worker, name=f"{worker.name} at {port}" if several else worker.name)
            for port, one in statuses.items()
            for worker in one.workers
        ],
        ended=ended,
        rolling_restarts=sum(one.rolling_restarts for one in services),
        dead_letters={name: n for one in services for name, n in one.dead_letters.items()},
        unready=[reason for one in services for reason in one.unready],
    )


def format_count(number: float | None, unknown: str = "?") -> str:
    """Return a number, from ten on without fractions; another text if it is not known."""
    if number is None:
        return unknown
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:,.1f}"  # noqa: PLR2004


def format_seconds(seconds: float | None) -> str:
    """Return a time in milliseconds below a second and in seconds above; "-" if it is not known."""
    if seconds is None:
        return "-"
    return f"{seconds:,.1f}s" if seconds >= 1 else f"{round(seconds * 1000, 2):.3g}ms"


def format_bound(seconds: float | None) -> str:
    """Return the bound of a quantile: "≤25ms", or ">300s" if it is above the highest finite bound."""
    if seconds == math.inf:
        return f">{SECONDS_BUCKETS[-1]:g}s"
    return "-" if seconds is None else f"≤{format_seconds(seconds)}"


def format_age(seconds: float) -> str:
    """Return how long something has lasted: "0:00:25", "2 days, 3:04:05"."""
    return str(timedelta(seconds=int(seconds)))


def format_memory(size: int | None) -> str:
    """Return a size in megabytes; "?" if it is not known."""
    return "?" if size is None else f"{size / 1e6:,.0f}MB"
