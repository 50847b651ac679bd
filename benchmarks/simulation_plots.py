"""The pictures of `docs/scale.md`: the simulation beside the measurements, and bursts under autoscalers."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

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
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
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
            rates = [rate / 1e3 for rate in measured.rates(case)]
            colour = "0.6" if case in fitted else "tab:blue"
            axes.barh(row, statistics.median(rates), color=colour, height=0.6)
            axes.plot([min(rates), max(rates)], [row, row], color="black", linewidth=1)
            axes.errorbar(
                rate / 1e3, row, xerr=WITHIN * rate / 1e3, fmt="D", color="tab:red", markersize=5, capsize=3
            )
        axes.set_yticks(range(len(simulated)), [str(case) for case in simulated])
        axes.invert_yaxis()
        axes.set_xlabel("thousand events a second")
        axes.set_title(
            "bars: measured (grey: what the simulation is fitted to; line: range)\nred: simulated, and 15%",
            fontsize=10,
            loc="left",
        )
    _save(figure, file)


def followed(episodes: Mapping[str, Episode], file: Path) -> None:
    """Draw the delay and the pods of each setting."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 6.5), layout="constrained")
        above, below = figure.subplots(2, sharex=True)
        for name, episode in episodes.items():
            burst = episode.burst
            minutes = [(at - burst.start) / 60 for at, *_ in episode.trace[::10]]
            above.plot(minutes, [delay for _, _, delay, _ in episode.trace[::10]], label=name, linewidth=1.3)
            below.plot(minutes, [ready for *_, ready in episode.trace[::10]], linewidth=1.3)
        for axes in (above, below):
            axes.axvspan(0, burst.length / 60, color="0.93")
        above.set_ylabel("seconds behind")
        above.legend(fontsize=8, frameon=False)
        below.set_ylabel("pods that work")
        below.set_xlabel("minutes since the load became ten times as much (grey: as long as it is)")
        below.set_xlim(-2, 25)
        file.parent.mkdir(parents=True, exist_ok=True)
    _save(figure, file)
