"""`eventml replay` against `eventml score` of the same events.

    python -m benchmarks.replay [--rows N] [--forest-rows N] [--rounds N] [--models linear forest]

`score` reads the rides from a Parquet file and writes the predictions to another. `replay` predicts them
from a topic on Redis, where it reads the predictions that were made before too, or from the file that such a
replay has written; it compares, and writes the rides with both predictions. Each case runs in a process of
its own; the time is measured from the loading of the model to the end of the report. The Redis server shares
the processors.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from backends.redis.server import RedisServer
from benchmarks.batch import ONE_THREAD, ROOT, rides, run, train
from benchmarks.measuring import interleave, machine, report

if TYPE_CHECKING:
    from collections.abc import Callable


def fill(folder: Path, url: str, model: str, rows: int) -> None:
    """Write the rides to a file and to an empty server, and have a worker predict those on the server."""
    table = rides(rows)
    table.to_parquet(folder / "rides.parquet", index=False)
    table.to_json(folder / "rides.jsonl", orient="records", lines=True)
    app, environment = (
        "benchmarks.batch_app:bus",
        {**os.environ, **ONE_THREAD, "BATCH_BENCHMARK": str(folder)},
    )
    for command in (
        ["publish", "rides", str(folder / "rides.jsonl"), "--backend", url],
        ["run", app, "--only", f"{model}_structs", "--backend", url, "--until-idle", "1"],
    ):
        done = [sys.executable, "-m", "eventml", *command]
        subprocess.run(done, cwd=ROOT, env=environment, check=True, capture_output=True)  # noqa: S603 - our own


def cases(
    folder: Path, url: str, model: str, rows: int, peaks: dict[str, list[float]]
) -> dict[str, Callable[[], float]]:
    """The cases to compare, by name. The replay of the topic writes the file that the last one reads."""
    predictor, pairs, out = f"benchmarks.batch_app:{model}_structs", folder / "pairs", folder / "out.parquet"
    replay = ["replay", predictor, "--json"]
    commands = {
        "score": (
            ["score", predictor, "--json", "--from", str(folder / "rides.parquet"), "--to", str(out)],
            out,
        ),
        "replay, Redis": ([*replay, "--backend", url, "--from", "earliest", "--to", str(pairs)], pairs),
        "replay, file": ([*replay, "--events", str(pairs), "--to", str(out)], out),
    }
    return {
        name: partial(run, ["-m", "eventml", *command], to, folder, rows, peaks.setdefault(name, []))
        for name, (command, to) in commands.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="for the linear model")
    parser.add_argument("--forest-rows", type=int, default=200_000, help="for the forest of 100 trees")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=["linear", "forest"])
    options = parser.parse_args()
    console = Console(width=110)
    console.print(machine("pyarrow", "scikit-learn", "redis"))
    for model in options.models:
        rows = options.forest_rows if model == "forest" else options.rows
        with tempfile.TemporaryDirectory(prefix="eventml-replay-") as name, RedisServer() as server:
            folder = Path(name)
            train(folder)
            fill(folder, server.url, model, rows)
            peaks: dict[str, list[float]] = {}
            figures = interleave(cases(folder, server.url, model, rows, peaks), options.rounds)
            report(f"{model}, {rows:,} events", figures, "score")
            for case, found in peaks.items():
                console.print(
                    f"{case}: {max(found):,.0f} MB at most, {statistics.median(found):,.0f} in the middle"
                )


if __name__ == "__main__":
    main()
