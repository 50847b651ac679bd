"""The pictures of `docs/scale.md`: the simulation beside the measurements, and bursts under autoscalers."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.simulation_autoscaling import Burst, Episode
    from benchmarks.simulation_fit import Measured
    from benchmarks.simulation_measuring import Case

WITHIN: Final = 0.15
STYLE: Final = {
    "svg.fonttype": "none",  # text stays text, which is smaller and can be found
    "svg.hashsalt": "eventml",  # the same picture each time
    "font.family": "sans-serif",
    "font.sans-serif": ["Arial", "Helvetica", "sans-serif"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _save(figure: Any, file: Path) -> None:
    with mpl.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None})


def compared(measured: Measured, simulated: Mapping[Case, float], fitted: list[Case], file: Path) -> None:
    """Draw each case's measured rate, with its range, and the simulated one, with 15 % around it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        axes = figure.subplots()
        for row, (case, rate) in enumerate(simulated.items()):
            rates = [sample.rate / 1e3 for sample in measured.of(case)]
            colour = "0.6" if case in fitted else "tab:blue"
            axes.barh(row, statistics.median(rates), color=colour, height=0.6)
            axes.plot([min(rates), max(rates)], [row, row], color="black", linewidth=1)
            axes.errorbar(rate / 1e3, row, xerr=WITHIN * rate / 1e3, fmt="D", color="tab:red", markersize=5, capsize=3)
        axes.set_yticks(range(len(simulated)), [str(case) for case in simulated])
        axes.invert_yaxis()
        axes.set_xlabel("thousand events a second")
        axes.set_title(
            "bars: measured (grey: what the simulation is fitted to; line: range)\nred: simulated, and 15 % around it",
            fontsize=10,
            loc="left",
        )
    _save(figure, file)


def followed(episodes: Mapping[str, Episode], burst: Burst, file: Path) -> None:
    """Draw the delay and the pods of each setting."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 6), layout="constrained")
        above, below = figure.subplots(2, sharex=True)
        for name, episode in episodes.items():
            minutes = [(at - burst.start) / 60 for at, _, _ in episode.trace]
            above.plot(minutes, [max(delay, 0.1) for _, delay, _ in episode.trace], label=name, linewidth=1.3)
            below.plot(minutes, [ready for _, _, ready in episode.trace], linewidth=1.3)
        for axes in (above, below):
            axes.axvspan(0, burst.length / 60, color="0.93")
        above.set_yscale("log")
        above.set_ylabel("seconds behind")
        above.legend(fontsize=8, frameon=False)
        below.set_ylabel("pods that work")
        below.set_xlabel(f"minutes since the load became {burst.times:g} times as much (grey: for {burst.length / 60:g} minutes)")
        below.set_xlim(-2, 40)
    _save(figure, file)
