"""Shared by the benchmarks: run cases in turn, report medians and ratios, describe the machine.

Machines are shared and drift, so the cases take turns within one run and only ratios count.
"""

from __future__ import annotations

import functools
import gc
import os
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sklearn.linear_model import LinearRegression


TREES: Final = int(os.environ.get("BENCHMARK_TREES", "100"))
"""The number of trees of every forest; the smoke tests set a small one."""


class RideStarted(msgspec.Struct):
    """A ride event of about 250 bytes."""

    ride_id: str
    pickup_location_id: int
    dropoff_location_id: int
    trip_distance: float
    pickup_datetime: str
    passenger_count: int
    vendor: str
    note: str


class DurationPredicted(msgspec.Struct):
    ride_id: str
    minutes: float


def rides(count: int) -> list[RideStarted]:
    """Make ride events; every call returns the same ones."""
    return [
        RideStarted(
            ride_id=f"ride-{number:09d}",
            pickup_location_id=number % 263 + 1,
            dropoff_location_id=number * 7 % 263 + 1,
            trip_distance=number % 200 / 10 + 0.5,
            pickup_datetime="2019-06-15T08:30:00",
            passenger_count=number % 4 + 1,
            vendor="benchmark",
            note="x" * 40,
        )
        for number in range(count)
    ]


def no_op(batch: Sequence[RideStarted]) -> list[DurationPredicted]:
    """A predictor that costs nothing, so that only the cost of the runtime remains."""
    return [DurationPredicted(ride.ride_id, ride.trip_distance) for ride in batch]


def linear(batch: Sequence[RideStarted]) -> list[DurationPredicted]:
    """A linear regression of four features."""
    minutes = _linear().predict(_features(batch)).tolist()
    return [DurationPredicted(ride.ride_id, value) for ride, value in zip(batch, minutes, strict=True)]


@functools.cache
def _linear() -> LinearRegression:
    from sklearn.linear_model import LinearRegression  # noqa: PLC0415 - it takes seconds, and many do without

    return LinearRegression().fit(_features(rides(500)), np.arange(500.0))


def _features(batch: Sequence[RideStarted]) -> Any:
    columns = ("trip_distance", "pickup_location_id", "dropoff_location_id", "passenger_count")
    return np.array([[getattr(ride, column) for column in columns] for ride in batch])


def machine(*packages: str) -> str:
    """Describe the machine and the versions in one line."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    python = f"Python {platform.python_version()}"
    return f"{_cpu()}, {os.cpu_count()} cores, {platform.system()}; {python}; {versions}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def interleave(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run each case once a round, in turn; a first round warms up and does not count.

    With 0 rounds it counts nevertheless: that shows that the cases work, and little else.

    Returns:
        Each case's figures, one a round.
    """
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for round_number in range(rounds + 1):
        for name, case in cases.items():
            gc.collect()
            gc.freeze()  # as `eventml run` does
            figure = case()
            gc.unfreeze()
            if round_number or not rounds:
                figures[name].append(figure)
    return figures


def report(
    title: str, figures: Mapping[str, Sequence[float]], reference: str, unit: str = "events/s"
) -> None:
    """Print median, min and max of each case, and how often the reference's median each one is."""
    base = statistics.median(figures[reference])
    table = Table(title=title, title_justify="left")
    for column in ("case", f"median {unit}", "min", "max", f"ratio to {reference}"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, values in figures.items():
        middle = statistics.median(values)
        row = (f"{middle:,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}", f"{middle / base:.3g}")
        table.add_row(name, *row)
    Console(width=110).print(table)
