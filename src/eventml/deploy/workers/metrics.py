"""Metrics of a service in Prometheus' text format, written on each request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final, get_args

from eventml.deploy.workers.readiness import group_lags
from eventml.deploy.workers.reports import ServiceStatus, WorkerState, handler_totals
from eventml.runtime import SECONDS_BUCKETS, SIZE_BUCKETS

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS: Final = {
    "received": ("eventml_events_received_total", "Deliveries received, repeated ones included."),
    "completed": ("eventml_events_completed_total", "Deliveries completed, whatever the result."),
    "published": ("eventml_events_published_total", "Outputs published, without dead letters."),
    "dead_letters": ("eventml_dead_letters_total", "Events moved to the dead-letter topic."),
    "failed": ("eventml_events_failed_total", "Events of web requests that were answered with an error."),
    "duplicates": ("eventml_events_duplicate_total", "Events dropped: their ids had been completed before."),
    "skipped": ("eventml_events_skipped_total", "Events skipped: by a header, replayed for another group."),
    "stale": ("eventml_events_stale_total", "Events that were too old when their turn came."),
    "lost": ("eventml_records_lost_total", "Records removed before the group had completed them."),
    "retries": ("eventml_retries_total", "Calls repeated because the call before had failed."),
    "calls": ("eventml_calls_total", "Calls of the handler."),
    "model_updates": ("eventml_model_updates_total", "New versions of the model that took over."),
    "models_refused": ("eventml_models_refused_total", "New versions of the model that were refused."),
    "canary_events": ("eventml_canary_events_total", "Events that the canary was called for."),
    "abandoned": ("eventml_calls_abandoned_total", "Calls past their timeout that could not be stopped."),
}
"""Name and description of the metric of each counter."""

_METRICS: Final = {
    "eventml_info": "gauge The service.",
    **{metric: f"counter {description}" for metric, description in _COUNTERS.values()},
    "eventml_latency_seconds": "histogram From the broker's timestamp to the completion.",
    "eventml_predictions": "histogram Numbers of predictions, sampled within a batch.",
    "eventml_batch_size": "histogram Events in a call.",
    "eventml_stage_seconds": "histogram Duration of one stage for one batch; receive includes waiting.",
    "eventml_lag": "gauge Events that the group has not completed.",
    "eventml_worker_state": "gauge Processes in that state.",
    "eventml_worker_connected": "gauge Whether it reaches its broker.",
    "eventml_worker_uptime_seconds": "gauge Uptime of the youngest process.",
    "eventml_worker_restarts_total": "counter Restarts after a crash.",
    "eventml_rolling_restarts_total": "counter Completed rolling restarts of all workers.",
    "eventml_events_in_flight": "gauge Events received and not completed.",
    "eventml_oldest_in_flight_seconds": "gauge Time since the oldest event in flight arrived.",
    "eventml_handler_breaker_open": "gauge 1 if the handler has stopped, as most of its events fail.",
    "eventml_broker_failing_seconds": "gauge For how long a step of the handler has failed at the broker.",
    "eventml_model_info": "gauge Processes of the worker that have loaded this model.",
}
"""Type and description of each metric."""

_STAGES: Final = ("receive", "decode", "call", "encode", "complete")
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Samples:
    """The samples of all metrics, as lines of the text format."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {metric: [] for metric in _METRICS}

    def __str__(self) -> str:
        parts = []
        for metric, lines in self._lines.items():
            kind, _, description = _METRICS[metric].partition(" ")
            parts += [f"# HELP {metric} {description}\n", f"# TYPE {metric} {kind}\n", *lines]
        return "".join(parts)

    def add(self, metric: str, value: float, suffix: str = "", **labels: str) -> None:
        """Add a sample."""
        pairs = ",".join(f'{name}="{text.translate(_ESCAPES)}"' for name, text in sorted(labels.items()))
        named = f"{metric}{suffix}{{{pairs}}}" if pairs else metric
        self._lines[metric].append(f"{named} {float(value)}\n")

    def add_histogram(
        self, metric: str, values: Sequence[float], bounds: Sequence[float], **labels: str
    ) -> None:
        """Add the samples of a histogram of a handler, given as in `Totals`; none if it is empty."""
        if len(values) != len(bounds) + 2:
            return
        total = 0.0
        for bound, count in zip([*map(str, bounds), "+Inf"], values[:-1], strict=True):
            total += count
            self.add(metric, total, "_bucket", le=bound, **labels)
        self.add(metric, total, "_count", **labels)
        self.add(metric, values[-1], "_sum", **labels)


def render_metrics(status: ServiceStatus) -> str:
    """Return all metrics.

    Counters and histograms are totals of all worker processes, those that have ended included. Of a process
    that was killed they lack what it did after its last report (half a second).
    """
    samples = Samples()
    samples.add("eventml_info", 1, bus=status.bus, version=version("eventml"))
    samples.add("eventml_rolling_restarts_total", status.rolling_restarts)
    _add_handlers(samples, status)
    _add_workers(samples, status)
    return str(samples)


def _add_handlers(samples: Samples, status: ServiceStatus) -> None:
    reports = {name: one for worker in status.workers for name, one in worker.handlers.items()}
    lags = group_lags(status)
    for name, total in sorted(handler_totals(status).items()):
        report = reports.get(name)
        labels = {"handler": name, "group": report.group if report else ""}
        for counter, (metric, _) in _COUNTERS.items():
            samples.add(metric, total.get(counter, [0])[0], **labels)
        samples.add_histogram("eventml_latency_seconds", total.get("latency", ()), SECONDS_BUCKETS, **labels)
        samples.add_histogram("eventml_batch_size", total.get("batch", ()), SIZE_BUCKETS, **labels)
        predictions, bounds = total.get("predictions", ()), total.get("bounds", ())
        samples.add_histogram("eventml_predictions", predictions, bounds, **labels)
        for stage in _STAGES:
            values, named = total.get(stage, ()), {**labels, "stage": stage}
            samples.add_histogram("eventml_stage_seconds", values, SECONDS_BUCKETS, **named)
        if (lag := lags.get(name)) is not None:
            samples.add("eventml_lag", lag, **labels)


def _add_workers(samples: Samples, status: ServiceStatus) -> None:
    for name in sorted({worker.name for worker in status.workers}):
        processes = [worker for worker in status.workers if worker.name == name]
        for state in get_args(WorkerState):
            count = sum(process.state == state for process in processes)
            samples.add("eventml_worker_state", count, worker=name, state=state)
        samples.add("eventml_worker_connected", all(one.connected for one in processes), worker=name)
        samples.add("eventml_worker_uptime_seconds", min(one.uptime for one in processes), worker=name)
        samples.add("eventml_worker_restarts_total", processes[0].restarts, worker=name)
        for handler in sorted({handler for process in processes for handler in process.handlers}):
            labels = {"handler": handler, "worker": name}
            reports = [process.handlers[handler] for process in processes if handler in process.handlers]
            samples.add("eventml_events_in_flight", sum(one.in_flight for one in reports), **labels)
            samples.add("eventml_oldest_in_flight_seconds", max(one.oldest for one in reports), **labels)
            samples.add("eventml_handler_breaker_open", any(one.breaker_open for one in reports), **labels)
            failing = max((s for one in reports for s, _ in one.failing.values()), default=0.0)
            samples.add("eventml_broker_failing_seconds", failing, **labels)
            loaded = Counter(report.model for report in reports if report.model is not None)
            for (model, version_), count in sorted(loaded.items()):
                samples.add("eventml_model_info", count, **labels, model=model, version=version_)
