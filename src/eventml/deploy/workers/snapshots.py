"""A running worker's report, made of its counters: once a report, never once an event."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from eventml.deploy.workers.liveness import Progress
from eventml.deploy.workers.reports import COUNTERS, Counts, HandlerReport, ModelInUse, Tally
from eventml.models import Artefact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventml.deploy.workers.at_work import AtWork
    from eventml.models import Model, ModelSource
    from eventml.runtime import Histogram, LoadedHandler, Stats

NONE: Final[Mapping[str, str]] = MappingProxyType({})


def handler_reports(
    worker: AtWork, lags: Mapping[str, int | None], stamps: Mapping[str, str] = NONE
) -> dict[str, HandlerReport]:
    """What each of the worker's handlers has done so far.

    Args:
        worker: Whose.
        lags: By handler, as last asked.
        stamps: By path, what the model files were like before they were loaded.
    """
    return {
        job.handler.name: _report(job, worker.stats[job.handler.name], lags.get(job.handler.name), stamps)
        for job in worker.handlers
    }


def model_path(source: ModelSource | None) -> str | None:
    """The file that a model comes from; None where it comes from elsewhere."""
    path = source.path if isinstance(source, Artefact) else source
    return str(Path(path).absolute()) if isinstance(path, str | os.PathLike) else None


def _report(job: LoadedHandler, stats: Stats, lag: int | None, stamps: Mapping[str, str]) -> HandlerReport:
    handler, now = job.handler, time.monotonic()
    arrived, hung = stats.oldest_arrival, stats.hung
    return HandlerReport(
        group=handler.options.group,
        topic=handler.topic,
        to=handler.to,
        tally=_tally(stats),
        progress=Progress(
            handler=handler.name,
            in_flight=stats.in_flight,
            quiet=now - stats.last_progress,
            oldest=0.0 if arrived is None else now - arrived,
            hung=len(hung),
            hung_for=now - min(hung, default=now),
        ),
        lag=lag,
        model=None if job.model is None else _model(job.model, model_path(handler.model), stamps),
    )


def _tally(stats: Stats) -> Tally:
    return Tally(
        **{field: getattr(stats, field) for field in COUNTERS},
        latency=_counts(stats.latency),
        batch=_counts(stats.batch),
        stages={str(stage): _counts(histogram) for stage, histogram in list(stats.stages.items())},
    )


def _counts(histogram: Histogram) -> Counts:
    return Counts(list(histogram.counts), histogram.sum)


def _model(model: Model, path: str | None, stamps: Mapping[str, str]) -> ModelInUse:
    return ModelInUse(model.name, model.version, path, stamps.get(path or "", ""))
