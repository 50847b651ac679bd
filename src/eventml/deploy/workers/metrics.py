"""Metrics of a service in Prometheus' text format, rendered by its official client on each request."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from eventml.deploy.workers.ipc import COUNTERS, HistogramSnapshot
from eventml.deploy.workers.status import ServiceStatus, group_lags, total_counters
from eventml.errors import MissingExtraError
from eventml.runtime import SECONDS_BUCKETS, SIZE_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import HistogramMetricFamily, Metric

STATES: Final = ("starting", "waiting", "ready", "draining", "failed", "restarting")
"""States of a worker, and "restarting" between two of its processes."""

_COUNTER_NAMES: Final = {
    "received": ("eventml_events_received", "Deliveries received, repeated ones included."),
    "completed": ("eventml_events_completed", "Deliveries completed, whatever the result."),
    "published": ("eventml_events_published", "Outputs published, without dead letters."),
    "dead_letters": ("eventml_dead_letters", "Events moved to the dead-letter topic."),
    "duplicates": ("eventml_events_duplicate", "Events dropped: the group had completed their ids before."),
    "stale": ("eventml_events_stale", "Events that were too old when their turn came."),
    "retries": ("eventml_retries", "Calls repeated because the call before had failed."),
    "calls": ("eventml_calls", "Calls of the handler."),
    "abandoned": ("eventml_calls_abandoned", "Calls past their timeout whose threads could not be stopped."),
}


def render_metrics(status: ServiceStatus, accept: str = "") -> tuple[bytes, str]:
    """Return the metrics, in the format that `accept` (the HTTP header) prefers, and their content type.

    Raises:
        MissingExtraError: prometheus_client is not installed.
    """
    try:
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - an extra
        from prometheus_client.registry import CollectorRegistry  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("metrics", "/metrics") from exc

    class Collector:
        def collect(self) -> Iterator[Metric]:
            return metric_families(status)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def metric_families(status: ServiceStatus) -> Iterator[Metric]:
    """Yield all metrics.

    Counters and histograms are totals of all worker processes, those that have ended included. Of a process
    that was killed they lack what it did after its last report (half a second).
    """
    from prometheus_client.metrics_core import GaugeMetricFamily as Gauge  # noqa: PLC0415 - an extra

    info = Gauge("eventml_info", "The service.", labels=["bus", "version"])
    info.add_metric([status.bus, version("eventml")], 1)
    yield info
    yield from _handler_families(status)
    yield from _worker_families(status)


def _handler_families(status: ServiceStatus) -> Iterator[Metric]:
    from prometheus_client.metrics_core import (  # noqa: PLC0415 - an extra
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    names = ["handler", "group"]
    totals = total_counters(status)
    groups = {name: handler.group for worker in status.workers for name, handler in worker.handlers.items()}
    labels = {name: [name, groups.get(name, "")] for name in totals}
    for field in COUNTERS:
        counter = CounterMetricFamily(*_COUNTER_NAMES[field], labels=names)
        for name, counters in totals.items():
            counter.add_metric(labels[name], getattr(counters, field))
        yield counter
    latency = HistogramMetricFamily(
        "eventml_latency_seconds", "From the broker's timestamp to the completion.", labels=names
    )
    batch = HistogramMetricFamily("eventml_batch_size", "Events in a call.", labels=names)
    stages = HistogramMetricFamily(
        "eventml_stage_seconds",
        "Duration of one stage for one batch; receive includes waiting for events.",
        labels=[*names, "stage"],
    )
    for name, counters in totals.items():
        _add_histogram(latency, labels[name], counters.latency, SECONDS_BUCKETS)
        _add_histogram(batch, labels[name], counters.batch, SIZE_BUCKETS)
        for stage, histogram in counters.stages.items():
            _add_histogram(stages, [*labels[name], stage], histogram, SECONDS_BUCKETS)
    yield from (latency, batch, stages)
    lag = GaugeMetricFamily("eventml_lag", "Events that the group has not completed.", labels=names)
    for name, unfinished in group_lags(status).items():
        if unfinished is not None:
            lag.add_metric(labels[name], unfinished)
    yield lag


def _worker_families(status: ServiceStatus) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily as Counter  # noqa: PLC0415 - an extra
    from prometheus_client.metrics_core import GaugeMetricFamily as Gauge  # noqa: PLC0415 - an extra

    state = Gauge("eventml_worker_state", "Processes in that state.", labels=["worker", "state"])
    connected = Gauge("eventml_worker_connected", "Whether it reaches its broker.", labels=["worker"])
    uptime = Gauge("eventml_worker_uptime_seconds", "Uptime of the youngest process.", labels=["worker"])
    restarts = Counter("eventml_worker_restarts", "Restarts after a crash.", labels=["worker"])
    rolling = Counter("eventml_rolling_restarts", "Completed rolling restarts of all workers.")
    rolling.add_metric([], status.rolling_restarts)
    in_flight = Gauge(
        "eventml_events_in_flight", "Events received and not completed.", labels=["handler", "worker"]
    )
    oldest = Gauge(
        "eventml_oldest_in_flight_seconds",
        "Time since the oldest event in flight arrived.",
        labels=["handler", "worker"],
    )
    models = Gauge(
        "eventml_model_info",
        "Processes of the worker that have loaded this model.",
        labels=["handler", "worker", "model", "version"],
    )
    for name in sorted({worker.name for worker in status.workers}):
        processes = [worker for worker in status.workers if worker.name == name]
        for kind in STATES:
            state.add_metric([name, kind], sum(process.state == kind for process in processes))
        connected.add_metric([name], all(process.connected for process in processes))
        uptime.add_metric([name], min(process.uptime for process in processes))
        restarts.add_metric([name], processes[0].restarts)
        for handler in {handler for process in processes for handler in process.handlers}:
            reports = [process.handlers[handler] for process in processes if handler in process.handlers]
            in_flight.add_metric([handler, name], sum(report.progress.in_flight for report in reports))
            oldest.add_metric([handler, name], max(report.progress.oldest for report in reports))
            loaded = [(report.model.name, report.model.version) for report in reports if report.model]
            for model in dict.fromkeys(loaded):
                models.add_metric([handler, name, *model], loaded.count(model))
    yield from (state, connected, uptime, restarts, rolling, in_flight, oldest, models)


def _add_histogram(
    family: HistogramMetricFamily,
    labels: Sequence[str],
    histogram: HistogramSnapshot | None,
    bounds: Sequence[float],
) -> None:
    if histogram is None:
        return
    buckets, cumulative = [], 0.0
    for bound, count in zip([*map(str, bounds), "+Inf"], histogram.counts, strict=True):
        cumulative += count
        buckets.append((bound, cumulative))
    family.add_metric(labels, buckets=buckets, sum_value=histogram.sum)
