"""A service's figures in Prometheus' text format, by its official client: made when they are asked for."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from eventml.deploy.workers.reports import COUNTERS
from eventml.deploy.workers.status import lags, totals
from eventml.errors import MissingExtraError
from eventml.runtime import SECONDS_BUCKETS, SIZE_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from eventml.deploy.workers.reports import Counts, HandlerReport
    from eventml.deploy.workers.status import Status

STATES: Final = ("starting", "waiting", "ready", "draining", "failed", "restarting")

_COUNTER_HELP: Final = {
    "received": ("eventml_events_received", "Deliveries taken in, repeated ones included."),
    "completed": ("eventml_events_completed", "Deliveries finished, one way or another."),
    "published": ("eventml_events_published", "Outputs written, dead letters not counted."),
    "dead_letters": ("eventml_dead_letters", "Events set aside."),
    "duplicates": ("eventml_events_duplicate", "Events dropped: the group had completed their ids before."),
    "stale": ("eventml_events_stale", "Events that were too old when their turn came."),
    "retries": ("eventml_retries", "Calls repeated because the one before had failed."),
    "calls": ("eventml_calls", "Calls of the handler."),
    "abandoned": ("eventml_calls_abandoned", "Calls past their timeout whose threads could not be stopped."),
}


def render(status: Status, accept: str = "") -> tuple[bytes, str]:
    """The figures, in the format that `accept` (an HTTP header) prefers, and their content type.

    Raises:
        MissingExtraError: prometheus_client is not installed.
    """
    try:
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - an extra
        from prometheus_client.registry import CollectorRegistry  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("metrics", "/metrics") from exc

    class Once:
        def collect(self) -> Iterator[Metric]:
            return families(status)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def families(status: Status) -> Iterator[Metric]:
    """All figures. Counters and histograms are of all workers that are or have been, by handler.

    What a worker that was killed did since its last report (half a second) is not in them.
    """
    from prometheus_client.metrics_core import GaugeMetricFamily as Gauge  # noqa: PLC0415 - an extra

    about = Gauge("eventml_info", "The service.", labels=["bus", "version"])
    about.add_metric([status.bus, version("eventml")], 1)
    yield about
    yield from _of_handlers(status)
    yield from _of_workers(status)


def _of_handlers(status: Status) -> Iterator[Metric]:
    from prometheus_client.metrics_core import (  # noqa: PLC0415 - an extra
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    known = {name: handler for worker in status.workers for name, handler in worker.handlers.items()}
    labels = {name: [name, _group(known.get(name))] for name in {*known, *status.retired}}
    named = ["handler", "group"]
    summed = totals(status)
    for field in COUNTERS:
        counter = CounterMetricFamily(*_COUNTER_HELP[field], labels=named)
        for name, tally in summed.items():
            counter.add_metric(labels[name], getattr(tally, field))
        yield counter
    latency = HistogramMetricFamily(
        "eventml_latency_seconds", "From the broker's timestamp to the completion.", labels=named
    )
    batch = HistogramMetricFamily("eventml_batch_size", "Events in a call.", labels=named)
    stages = HistogramMetricFamily(
        "eventml_stage_seconds",
        "One stage's work on one batch; receive includes waiting for events.",
        labels=[*named, "stage"],
    )
    for name, tally in summed.items():
        _observed(latency, labels[name], tally.latency, SECONDS_BUCKETS)
        _observed(batch, labels[name], tally.batch, SIZE_BUCKETS)
        for stage, counts in tally.stages.items():
            _observed(stages, [*labels[name], stage], counts, SECONDS_BUCKETS)
    yield from (latency, batch, stages)
    lag = GaugeMetricFamily("eventml_lag", "Events that the group has not finished.", labels=named)
    for name, behind in lags(status).items():
        if behind is not None:
            lag.add_metric(labels[name], behind)
    yield lag


def _of_workers(status: Status) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily as Counter  # noqa: PLC0415 - an extra
    from prometheus_client.metrics_core import GaugeMetricFamily as Gauge  # noqa: PLC0415 - an extra

    state = Gauge("eventml_worker_state", "1 for each process in that state.", labels=["worker", "state"])
    connected = Gauge("eventml_worker_connected", "Whether it reaches its broker.", labels=["worker"])
    uptime = Gauge("eventml_worker_uptime_seconds", "Of the youngest process.", labels=["worker"])
    restarts = Counter("eventml_worker_restarts", "Starts after a crash.", labels=["worker"])
    rolls = Counter("eventml_rolls", "Replacements of all workers, one after the other.")
    rolls.add_metric([], status.rolls)
    in_flight = Gauge("eventml_in_hand", "Events taken and not finished.", labels=["handler", "worker"])
    oldest = Gauge(
        "eventml_oldest_in_hand_seconds",
        "Since the oldest event in hand arrived.",
        labels=["handler", "worker"],
    )
    models = Gauge(
        "eventml_model_info",
        "The models in use: 1 for each process that has it.",
        labels=["handler", "worker", "model", "version"],
    )
    names = sorted({worker.name for worker in status.workers})
    for name in names:
        same = [worker for worker in status.workers if worker.name == name]
        for kind in STATES:
            state.add_metric([name, kind], sum(worker.state == kind for worker in same))
        connected.add_metric([name], all(worker.connected for worker in same))
        uptime.add_metric([name], min(worker.uptime for worker in same))
        restarts.add_metric([name], same[0].restarts)
        for handler in {handler for worker in same for handler in worker.handlers}:
            reports = [worker.handlers[handler] for worker in same if handler in worker.handlers]
            in_flight.add_metric([handler, name], sum(report.progress.in_flight for report in reports))
            oldest.add_metric([handler, name], max(report.progress.oldest for report in reports))
            used = [(report.model.name, report.model.version) for report in reports if report.model]
            for model, model_version in dict.fromkeys(used):
                models.add_metric([handler, name, model, model_version], used.count((model, model_version)))
    yield from (state, connected, uptime, restarts, rolls, in_flight, oldest, models)


def _observed(family: Metric, labels: Sequence[str], counts: Counts | None, bounds: Sequence[float]) -> None:
    if counts is None:
        return
    buckets, seen = [], 0.0
    for bound, count in zip([*map(str, bounds), "+Inf"], counts.counts, strict=True):
        seen += count
        buckets.append((bound, seen))
    family.add_metric(labels, buckets=buckets, sum_value=counts.sum)  # type: ignore[attr-defined] # a histogram family


def _group(handler: HandlerReport | None) -> str:
    return "" if handler is None else handler.group
