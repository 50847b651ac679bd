"""An HTML report about predictions, in one file that loads nothing else."""

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

_SHOWN = 6  # features with a histogram


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions compared with the true values, as far as they are known.

    Attributes:
        rows: Rows with the largest errors, the largest first, as columns to show.
        facts: Figures to show, such as the number of known values, the error, and that of a baseline.
        predicted: Predictions whose true value is known.
        actual: Their true values.
        about: Description of these predictions.
    """

    rows: Sequence[Mapping[str, Any]]
    facts: Mapping[str, str]
    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]
    about: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the page.

    Attributes:
        title: Title of the page.
        facts: Figures for its head, such as the number of rows and the model.
        predictions: All predictions.
        unit: Unit of the predictions.
        reference: Predictions for the training sample, to compare with; may be empty.
        drifts: Drift of the features, the highest index first; empty if not measured.
        crossings: Limits that were crossed.
        truth: Comparison with true values; None while none are known.
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
    """Return the rows with the largest errors, the largest first.

    Args:
        columns: Columns to show, each as long as the predictions.
        predicted: Predictions. A row without a finite prediction and true value is left out.
        actual: True values.
        count: Highest number of rows.
    """
    errors = np.abs(predicted - actual)
    order = np.argsort(-errors, kind="stable")
    known = order[np.isfinite(errors[order])][:count].tolist()
    return [
        {
            **{name: column[row] for name, column in columns.items()},
            "predicted": float(predicted[row]),
            "actual": float(actual[row]),
            "error": float(errors[row]),
        }
        for row in known
    ]


def render(report: Report) -> str:
    """Return the page as HTML; text of the data is escaped."""
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
    """Write the page to a file, and create its folder. Returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(report), encoding="utf-8")
    return path


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
