"""What `eventml top` shows, made of two looks at a service's metrics: pure."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from eventml.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Labels: TypeAlias = frozenset[tuple[str, str]]


class Look(msgspec.Struct, frozen=True):
    """A service's metrics at one moment.

    Attributes:
        at: When, by a monotonic clock, in seconds.
        samples: Each sample's value, by its name and labels.
    """

    at: float
    samples: Mapping[tuple[str, Labels], float]

    def sum(self, name: str, **labels: str) -> float | None:
        """The sum of the samples of that name with these labels; None where there is none."""
        wanted = set(labels.items())
        values = [value for (found, said), value in self.samples.items() if found == name and wanted <= said]
        return sum(values) if values else None

    def labels(self, name: str, label: str) -> list[str]:
        """The values of a label, in order."""
        values = (dict(said).get(label) for found, said in self.samples if found == name)
        return sorted({value for value in values if value is not None})


class HandlerLine(msgspec.Struct, frozen=True):
    """One handler, over the time between two looks.

    Rates are in events a second, latencies in seconds. None is "unknown", or none in that time.
    """

    name: str
    lag: float | None
    in_flight: float
    received: float
    published: float
    dead_letters: float
    retries: float
    p50: float | None
    p99: float | None
    batch: float | None


class WorkerLine(msgspec.Struct, frozen=True):
    """One worker, now."""

    name: str
    state: str
    connected: bool
    uptime: float
    restarts: float
    in_flight: float
    oldest: float
    models: Sequence[str]


def read_look(text: str, at: float) -> Look:
    """Read metrics in Prometheus' text format.

    Raises:
        MissingExtraError: prometheus_client is not installed.
        ValueError: it is not that format.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("metrics", "`eventml top`") from exc
    families = text_string_to_metric_families(text)
    return Look(
        at,
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        },
    )


def handler_lines(before: Look, now: Look) -> list[HandlerLine]:
    """The handlers, by name."""
    return [_handler(before, now, name) for name in now.labels("eventml_events_received_total", "handler")]


def worker_lines(now: Look) -> list[WorkerLine]:
    """The workers, by name."""
    return [_worker(now, name) for name in now.labels("eventml_worker_state", "worker")]


def quantile(buckets: Iterable[tuple[float, float]], share: float) -> float | None:
    """A quantile, interpolated within its bucket as Prometheus' `histogram_quantile` does.

    Args:
        buckets: Each one's upper bound and how many values were not above it.
        share: Of all values, from 0 to 1.

    Returns:
        None where there are no values. Above the highest bound there is, that bound.
    """
    rising = sorted(buckets)
    if not rising or rising[-1][1] <= 0:
        return None
    wanted, low, below = share * rising[-1][1], 0.0, 0.0
    for bound, count in rising:
        if count >= wanted and count > below:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low


def _handler(before: Look, now: Look, name: str) -> HandlerLine:
    def rate(metric: str) -> float:
        return _growth(before, now, metric, name) / max(now.at - before.at, 1e-9)

    calls = _growth(before, now, "eventml_batch_size_count", name)
    called = _growth(before, now, "eventml_batch_size_sum", name)
    waits = _buckets(before, now, "eventml_latency_seconds_bucket", name)
    return HandlerLine(
        name=name,
        lag=now.sum("eventml_lag", handler=name),
        in_flight=now.sum("eventml_events_in_flight", handler=name) or 0.0,
        received=rate("eventml_events_received_total"),
        published=rate("eventml_events_published_total"),
        dead_letters=now.sum("eventml_dead_letters_total", handler=name) or 0.0,
        retries=now.sum("eventml_retries_total", handler=name) or 0.0,
        p50=quantile(waits, 0.5),
        p99=quantile(waits, 0.99),
        batch=called / calls if calls else None,
    )


def _worker(now: Look, name: str) -> WorkerLine:
    states = [
        dict(labels)["state"]
        for (metric, labels), value in now.samples.items()
        if metric == "eventml_worker_state" and value and ("worker", name) in labels
    ]
    models = sorted(
        f"{said['handler']} {said['version']}"
        for said in (dict(labels) for metric, labels in now.samples if metric == "eventml_model_info")
        if said["worker"] == name
    )
    return WorkerLine(
        name=name,
        state="+".join(sorted(states, key=lambda state: state != "ready")),
        connected=bool(now.sum("eventml_worker_connected", worker=name)),
        uptime=now.sum("eventml_worker_uptime_seconds", worker=name) or 0.0,
        restarts=now.sum("eventml_worker_restarts_total", worker=name) or 0.0,
        in_flight=now.sum("eventml_events_in_flight", worker=name) or 0.0,
        oldest=now.sum("eventml_oldest_in_flight_seconds", worker=name) or 0.0,
        models=models,
    )


def _growth(before: Look, now: Look, metric: str, handler: str) -> float:
    """By how much a counter has grown; all of it where the service was started in between."""
    then, today = before.sum(metric, handler=handler) or 0.0, now.sum(metric, handler=handler) or 0.0
    return today - then if today >= then else today


def _buckets(before: Look, now: Look, metric: str, handler: str) -> list[tuple[float, float]]:
    grown: dict[float, float] = defaultdict(float)
    restarted = (now.sum(metric, handler=handler) or 0.0) < (before.sum(metric, handler=handler) or 0.0)
    for (found, labels), value in now.samples.items():
        if found == metric and ("handler", handler) in labels:
            then = 0.0 if restarted else before.samples.get((found, labels), 0.0)
            grown[float(dict(labels)["le"])] += value - then
    return list(grown.items())
