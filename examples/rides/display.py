"""Output of the demo: a live table while it runs, and a summary of the errors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventml.runtime import Histogram, Stats

_COLUMNS = ("consumer", "in", "out", "dead letters", "events/s", "lag", "p50", "p99")


class LiveTable:
    """The live table: a row for each consumer, with rates since the last update, or of the whole run."""

    def __init__(self, stats: Mapping[str, Stats]) -> None:
        self._stats = stats
        self._start = time.monotonic()
        self._before = dict.fromkeys(stats, (self._start, 0))

    def render(self, lag: Mapping[str, int | None], *, whole_run: bool = False) -> Table:
        """Return the table of the current counts, with the lag of each consumer.

        Rates are those since the last call; with `whole_run` those from the start to the last completion.
        """
        table = Table(title="rides", title_justify="left")
        for column in _COLUMNS:
            table.add_column(column, justify="left" if column == "consumer" else "right")
        for name, stats in self._stats.items():
            table.add_row(
                name,
                f"{stats.received:,}",
                f"{stats.published:,}",
                f"{stats.dead_letters:,}",
                f"{self._total_rate(stats) if whole_run else self._rate(name, stats.completed):,.0f}",
                "?" if lag.get(name) is None else f"{lag[name]:,}",
                _milliseconds(quantile(stats.latency, 0.5)),
                _milliseconds(quantile(stats.latency, 0.99)),
            )
        return table

    def _total_rate(self, stats: Stats) -> float:
        return stats.completed / max(stats.last_progress - self._start, 1e-9)

    def _rate(self, name: str, completed: int) -> float:
        then, before = self._before[name]
        now = time.monotonic()
        self._before[name] = (now, completed)
        return (completed - before) / max(now - then, 1e-9)


def quantile(histogram: Histogram, share: float) -> float | None:
    """Return the value that this share of the values does not exceed; None if there are no values.

    Interpolated within its bucket, as Prometheus' `histogram_quantile` does: values are taken to be at least
    0, and those above the last bound to be equal to it.
    """
    wanted = share * sum(histogram.counts)
    if not wanted:
        return None
    lower = 0.0
    for upper, count in zip(histogram.bounds, histogram.counts, strict=False):
        if count and count >= wanted:
            return lower + (upper - lower) * wanted / count
        wanted -= count
        lower = upper
    return lower


def summary(result: Mapping[str, Any]) -> Table:
    """Return a table with each model's error, and that of the baseline that always predicts the mean."""
    table = Table(title="error on trips not trained on (RMSE)", title_justify="left")
    for column in ("model", "version", "error", "baseline"):
        table.add_column(column, justify="left" if column in ("model", "version") else "right")
    for name, model in result["models"].items():
        table.add_row(name, model["version"], f"{model['rmse']:.2f}", f"{model['baseline_rmse']:.2f}")
    return table


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.1f} ms"
