"""`eventml score` against a hand-written pandas script that does the same reads and writes.

    python -m benchmarks.batch [--rows N] [--forest-rows N] [--rounds N] [--only sqlite parquet]

Each case runs in a process of its own. The time is measured from the loading of the model to the last write,
without the two seconds that importing pandas, pyarrow and scikit-learn takes in each case. The peak memory is
that of the resident set, as the kernel counts it. All cases read the same five of eight columns and write the
same six. The script `pandas` processes the whole table at once, as most scripts do; `in pieces` bounds its
memory (SQLite only: `pandas.read_parquet` cannot). eventml also keeps a unique key and checkpoints, and
checks outputs, which the scripts do not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import pandas as pd
import skops.io
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

from benchmarks.measuring import TREES, interleave, machine, report

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).parents[1]
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
FEATURES: Final = ["trip_distance", "pickup_location_id", "dropoff_location_id", "passenger_count"]


def rides(count: int) -> pd.DataFrame:
    """Make rides of about 250 bytes; every call returns the same ones."""
    number = np.arange(count)
    return pd.DataFrame(
        {
            "ride_id": [f"ride-{one:09d}" for one in range(count)],
            "pickup_location_id": number % 263 + 1,
            "dropoff_location_id": number * 7 % 263 + 1,
            "trip_distance": np.random.default_rng(0).random(count) * 20,
            "pickup_datetime": "2019-06-15T08:30:00",
            "passenger_count": number % 4 + 1,
            "vendor": "benchmark",
            "note": "x" * 40,
        }
    )


def prepare(folder: Path, rows: int) -> None:
    """Write the rides to one source of each kind."""
    table = rides(rows)
    table.to_parquet(folder / f"rides-{rows}.parquet", index=False)
    engine = sa.create_engine(f"sqlite:///{folder / f'rides-{rows}.db'}")
    with engine.begin() as connection:
        names = ", ".join(
            f"{name} {'TEXT PRIMARY KEY' if name == 'ride_id' else ''}" for name in table.columns
        )
        connection.exec_driver_sql(f"CREATE TABLE rides ({names})")
    table.to_sql("rides", engine, index=False, if_exists="append", chunksize=10_000)
    engine.dispose()


def train(folder: Path) -> None:
    known = rides(5_000)
    target = known["trip_distance"] * 3 + known["pickup_location_id"] % 7
    forest = RandomForestRegressor(n_estimators=TREES, max_depth=12, random_state=0, n_jobs=4)
    for name, model in (("linear", LinearRegression()), ("forest", forest)):
        fitted = model.fit(known[FEATURES].to_numpy(), target)
        if name == "forest":
            fitted.n_jobs = None
        skops.io.dump(fitted, folder / f"{name}.skops")


def run(command: list[str], target: Path, folder: Path, rows: int, peaks: list[float]) -> float:
    """Run one process; return its rows a second by its own clock, and append its peak memory in MB."""
    for old in [target, *target.parent.glob(f"{target.name}*")]:
        old.unlink(missing_ok=True)
    environment = {**os.environ, **ONE_THREAD, "BATCH_BENCHMARK": str(folder)}
    process = subprocess.Popen(  # noqa: S603 - this benchmark's own command
        [sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE
    )
    peak = 0.0
    while process.poll() is None:
        # Of the process itself: the figure of wait4(2) includes the memory of the process that forked it.
        peak = max(peak, _high_water(process.pid))
        time.sleep(0.01)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    peaks.append(peak)
    return rows / float(msgspec.json.decode(output)["seconds"])


def _high_water(pid: int) -> float:
    """The peak of a process's resident memory since it started its program, in MB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def cases(
    folder: Path, kind: str, model: str, rows: int, peaks: dict[str, list[float]]
) -> dict[str, Callable[[], float]]:
    """The cases to compare, by name."""
    suffix = "parquet" if kind == "parquet" else "db"
    source, target = folder / f"rides-{rows}.{suffix}", folder / f"out.{suffix}"
    places = (
        [str(source), str(target)]
        if kind == "parquet"
        else [f"sqlite:///{source}#rides", f"sqlite:///{target}#predictions"]
    )
    commands = {"pandas": ["-m", "benchmarks.batch_app", "pandas", str(source), str(target), model]}
    if kind == "sqlite":
        commands["pandas, in pieces"] = [
            "-m",
            "benchmarks.batch_app",
            "chunked",
            str(source),
            str(target),
            model,
        ]
    for name, handler in (("eventml, Arrow table", "table"), ("eventml, list of events", "structs")):
        commands[name] = [
            *("-m", "eventml", "score", f"benchmarks.batch_app:{model}_{handler}"),
            *("--from", places[0], "--to", places[1], "--json"),
        ]
    return {
        name: partial(run, command, target, folder, rows, peaks.setdefault(name, []))
        for name, command in commands.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="for the linear model")
    parser.add_argument("--forest-rows", type=int, default=200_000, help="for the forest of 100 trees")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=["sqlite", "parquet"])
    parser.add_argument("--models", nargs="*", default=["linear", "forest"])
    options = parser.parse_args()
    console = Console(width=110)
    console.print(machine("pandas", "pyarrow", "sqlalchemy", "scikit-learn"))
    with tempfile.TemporaryDirectory(prefix="eventml-batch-") as name:
        folder = Path(name)
        train(folder)
        sizes = {"linear": options.rows, "forest": options.forest_rows}
        for rows in {sizes[model] for model in options.models}:
            prepare(folder, rows)
        for kind in options.only:
            for model in options.models:
                peaks: dict[str, list[float]] = {}
                figures = interleave(cases(folder, kind, model, sizes[model], peaks), options.rounds)
                report(f"{kind}, {model}, {sizes[model]:,} rows", figures, "pandas", unit="rows/s")
                _report_memory(console, peaks)


def _report_memory(console: Console, peaks: dict[str, list[float]]) -> None:
    base = statistics.median(peaks["pandas"])
    table = Table("case", "peak MB", "ratio to pandas")
    for name, figures in peaks.items():
        table.add_row(name, f"{max(figures):,.0f}", f"{statistics.median(figures) / base:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
