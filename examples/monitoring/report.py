"""One HTML file that says how the predictions look: nothing beside it, nothing loaded from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jinja2
import msgspec
import numpy as np

from examples.monitoring import plots
from examples.monitoring.drift import DRIFTED, MOVED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from examples.monitoring.alarms import Crossing
    from examples.monitoring.drift import Drift

_SHOWN = 6  # features whose histograms are drawn


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """How predictions turned out, where that is known.

    Attributes:
        rows: The rows that were furthest off, the worst first: what to show of each, by column.
        facts: Figures in words: how many are known, the error, a baseline's error.
        predicted: Every prediction whose truth is known.
        actual: Its truth.
        about: Which predictions these are, in words.
    """

    rows: Sequence[Mapping[str, Any]]
    facts: Mapping[str, str]
    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]
    about: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows.

    Attributes:
        title: Of the page.
        facts: Figures in words, for its head: how many rows, which model.
        predictions: All of them.
        unit: Of the predictions.
        reference: Predictions for the training sample, to compare with; empty for none.
        drifts: How far the features have moved, the farthest first; empty where nobody looked.
        crossings: The limits that were crossed.
        truth: How predictions turned out; None while nobody knows.
    """

    title: str
    facts: Mapping[str, str]
    predictions: NDArray[np.float64]
    unit: str
    reference: NDArray[np.float64]
    drifts: Sequence[Drift] = ()
    crossings: Sequence[Crossing] = ()
    truth: Truth | None = None


def worst(
    columns: Mapping[str, Sequence[Any]],
    predicted: NDArray[np.float64],
    actual: NDArray[np.float64],
    count: int = 10,
) -> list[dict[str, Any]]:
    """The rows that a model was most wrong about, the worst first.

    Args:
        columns: What to show of a row, by column, each as long as the predictions.
        predicted: What it said. Where this or the truth is not a number there is no error.
        actual: What was true.
        count: How many rows at most.
    """
    errors = np.abs(predicted - actual)
    order = np.argsort(-errors, kind="stable")
    known = order[np.isfinite(errors[order])][:count].tolist()
    return [
        {
            **{name: column[row] for name, column in columns.items()},
            "predicted": float(predicted[row]),
            "actual": float(actual[row]),
            "off by": float(errors[row]),
        }
        for row in known
    ]


def render(report: Report) -> str:
    """The page. Whatever text the data holds is shown as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("examples.monitoring", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["short"] = _short
    return environment.get_template("report.html").render(
        report=report,
        distribution=plots.distribution(report.predictions, report.reference, report.unit),
        index=plots.indices(report.drifts) if report.drifts else None,
        histograms=[plots.shares(drift) for drift in report.drifts[:_SHOWN]],
        outcome=plots.outcome(report.truth.predicted, report.truth.actual, report.unit)
        if report.truth
        else None,
        moved=MOVED,
        drifted=DRIFTED,
    )


def write(report: Report, path: Path) -> Path:
    """Write the page to a file, and make its folder. Returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(report), encoding="utf-8")
    return path


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
