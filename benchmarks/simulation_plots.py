"""The pictures of `docs/scale.md`: the simulation beside the measurements, and bursts under autoscalers."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.simulation_fit import FITTED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.simulation_autoscaling import Episode
    from benchmarks.simulation_fit import Measured
    from benchmarks.simulation_measuring import Case

WITHIN: Final = 0.15
STYLE: Final[Any] = {
    "svg.fonttype": "none",  # text stays text, which is smaller and can be found
    "svg.hashsalt": "eventml",  # the same picture each time
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "axes.spines.top": False,
    "axes.spines.right": False,
}
SAVED: Final[Any] = {"format": "svg", "metadata": {"Date": None}}


def compared(measured: Measured, simulated: Mapping[Case, float], file: Path) -> None:
    """Draw each case's measured rate, with its range, and the simulated one, with 15 % around it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        axes = figure.subplots()
        for row, (case, rate) in enumerate(simulated.items()):
            rates = [found / 1e3 for found in measured.rates(case)]
            colour = "0.6" if case in FITTED else "tab:blue"
            axes.barh(row, statistics.median(rates), color=colour, height=0.6)
            axes.plot([min(rates), max(rates)], [row, row], color="black", linewidth=1)
            within = WITHIN * rate / 1e3
            axes.errorbar(rate / 1e3, row, xerr=within, fmt="D", color="tab:red", markersize=5, capsize=3)
        axes.set_yticks(range(len(simulated)), [str(case) for case in simulated])
        axes.invert_yaxis()
        axes.set_xlabel("thousand events a second")
        title = (
            "bars: measured (grey: what the simulation is fitted to; line: range)\nred: simulated, and 15%"
        )
        axes.set_title(title, fontsize=10, loc="left")
        figure.savefig(file, **SAVED)


def followed(episodes: Mapping[str, Episode], file: Path) -> None:
    """Draw the delay and the pods of each setting."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 6.5), layout="constrained")
        above, below = figure.subplots(2, sharex=True)
        for name, episode in episodes.items():
            times, _, delays, ready = zip(*episode.trace[::10], strict=True)
            minutes = [(at - episode.burst.start) / 60 for at in times]
            above.plot(minutes, delays, label=name, linewidth=1.3)
            below.plot(minutes, ready, linewidth=1.3)
            for axes in (above, below):
                axes.axvspan(0, episode.burst.length / 60, color="0.93")
        above.set_ylabel("seconds behind")
        above.legend(fontsize=8, frameon=False)
        below.set_ylabel("pods that work")
        below.set_xlabel("minutes since the load became ten times as much (grey: as long as it is)")
        below.set_xlim(-2, 25)
        figure.savefig(file, **SAVED)
