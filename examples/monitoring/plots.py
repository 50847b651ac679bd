"""Plots of the report, as SVG elements of the page. Their text stays text, in the font of the page."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from examples.monitoring.drift import DRIFTED, MOVED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from examples.monitoring.drift import Drift

_NOW: Final = "#2563a8"
_THEN: Final = "#b9bec6"
_BAD: Final = "#c2410c"
_INK: Final = "#3d434c"
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.parse_math": False,  # a column may be called "a$b"
    "text.color": _INK,
    "axes.edgecolor": _THEN,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}
_MOST_POINTS: Final = 2_000
_WIDE: Final = 8.6
_HALF: Final = 4.2  # inches


def distribution(predictions: NDArray[np.float64], reference: NDArray[np.float64], unit: str) -> Markup:
    """Plot the histogram of the predictions over that of the training sample."""
    both = np.concatenate([predictions, reference])
    if not len(both):
        return Markup("<p>No predictions.</p>")
    low, high = np.quantile(both, [0.002, 0.998]).tolist()
    bins = np.linspace(low, max(high, low + 1e-9), 41)

    def draw(axes: Axes) -> None:
        for numbers, colour, label in ((reference, _THEN, "training sample"), (predictions, _NOW, "now")):
            if len(numbers):
                weights = np.full(len(numbers), 100 / len(numbers))
                axes.hist(
                    np.clip(numbers, low, high),
                    bins=bins.tolist(),
                    weights=weights,
                    color=colour,
                    label=label,
                    alpha=1.0 if colour == _THEN else 0.65,
                )
        axes.set_xlabel(f"predicted {unit}")
        axes.set_ylabel("% of rows")
        axes.legend()

    return _svg(draw, _WIDE, 2.7)


def indices(drifts: Sequence[Drift]) -> Markup:
    """Plot the index of each feature as a bar, with the two limits."""

    def draw(axes: Axes) -> None:
        names = [drift.feature for drift in reversed(drifts)]
        colours = [_BAD if drift.verdict == "drifted" else _NOW for drift in reversed(drifts)]
        axes.barh(range(len(names)), [drift.psi for drift in reversed(drifts)], color=colours, height=0.6)
        axes.set_yticks(range(len(names)), names)
        for limit in (MOVED, DRIFTED):
            axes.axvline(limit, color=_INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, max(DRIFTED * 1.15, *(drift.psi * 1.05 for drift in drifts)))
        axes.set_xlabel("population stability index")

    return _svg(draw, _WIDE, 0.7 + 0.27 * len(drifts))


def shares(drift: Drift) -> Markup:
    """Plot the histogram of a feature beside that of the training sample."""
    shown = [index for index in range(len(drift.labels)) if drift.then[index] or drift.now[index]]

    def draw(axes: Axes) -> None:
        at = np.arange(len(shown))
        axes.bar(at - 0.2, [100 * drift.then[index] for index in shown], 0.4, color=_THEN)
        colour = _BAD if drift.verdict == "drifted" else _NOW
        axes.bar(at + 0.2, [100 * drift.now[index] for index in shown], 0.4, color=colour)
        labels = [drift.labels[index] for index in shown]
        axes.set_xticks(at.tolist(), labels, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_title(f"{drift.feature}: {drift.psi:.2f}, {drift.verdict}", loc="left")
        axes.set_ylabel("% of rows")

    return _svg(draw, _HALF, 2.7)


def outcome(predicted: NDArray[np.float64], actual: NDArray[np.float64], unit: str) -> Markup:
    """Plot true values against predictions, or for a binary target the calibration by tenths."""
    if not len(predicted):
        return Markup("<p>No true values are known.</p>")
    binary = bool(np.isin(actual, (0.0, 1.0)).all())

    def draw(axes: Axes) -> None:
        if binary:
            _calibration(axes, predicted, actual)
            axes.set_ylabel("share of positives")
        else:
            some = np.linspace(0, len(predicted) - 1, min(len(predicted), _MOST_POINTS)).astype(int)
            axes.scatter(predicted[some], actual[some], s=5, color=_NOW, alpha=0.4, linewidths=0)
            axes.set_ylabel(f"actual {unit}")
        ends = [0.0, 1.0] if binary else np.quantile(predicted, [0, 1]).tolist()
        axes.plot(ends, ends, color=_INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel(f"predicted {unit}")

    return _svg(draw, _WIDE, 3.2)


def _calibration(axes: Axes, predicted: NDArray[np.float64], actual: NDArray[np.float64]) -> None:
    tenths = np.minimum((predicted * 10).astype(int), 9)
    there = np.unique(tenths)
    x = [float(predicted[tenths == tenth].mean()) for tenth in there]
    y = [float(actual[tenths == tenth].mean()) for tenth in there]
    size = [8 + 120 * float(np.mean(tenths == tenth)) for tenth in there]
    axes.scatter(x, y, s=size, color=_NOW, zorder=3)


def _svg(draw: Any, width: float, height: float) -> Markup:
    """Draw a figure and return its `<svg>` element, without the XML declaration of a file."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    markup = text.getvalue()
    # matplotlib escapes text; the rest is its own markup.
    return Markup(markup[markup.index("<svg") :])  # noqa: S704 - see above
