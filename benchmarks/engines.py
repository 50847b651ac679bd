"""One predictor over many rows: `eventml score`, Ray, Spark and Dask, with the same predictions and kills.

    python -m benchmarks.engines [--rows 10000000] [--kills 5] [--engines none,ray,spark,dask]

It needs `pip install 'ray[data]' pyspark 'dask[dataframe]'`, and Java 17 for Spark. Each has two workers.
Memory is the highest sum of the proportional set sizes (PSS) of the process and all its children.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from benchmarks.measuring import machine, report

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
PREDICTOR = "benchmarks.engines_app:duration"


def generate(folder: Path, rows: int) -> None:
    """Write rides to Parquet files of a million rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, rows, 1_000_000):
        count, rng = min(1_000_000, rows - first), np.random.default_rng(first)
        ids = pc.binary_join_element_wise(
            "r-", pc.cast(pa.array(np.arange(first, first + count)), pa.string()), ""
        )
        columns = {name: rng.random(count) * 30 for name in ("distance", "hour", "passengers", "fare")}
        pq.write_table(pa.table({"ride_id": ids, **columns}), folder / f"{first:012}.parquet")


def score_with_ray(source: str, target: str) -> None:
    import ray  # noqa: PLC0415 - each engine is imported by its own process

    from eventml.batch import scorer  # noqa: PLC0415 - as above

    environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    scored = ray.data.read_parquet(source).map_batches(
        scorer(PREDICTOR, output=float), batch_format="pyarrow", batch_size=32_768
    )
    scored.write_parquet(target, mode="overwrite")
    Path(target, "_SUCCESS").touch()


def score_with_spark(source: str, target: str) -> None:
    from pyspark.sql import SparkSession  # noqa: PLC0415 - as above
    from pyspark.sql.pandas.types import from_arrow_schema  # noqa: PLC0415 - as above

    from eventml.batch import scorer  # noqa: PLC0415 - as above

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "32768")
    spark = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    score = scorer(PREDICTOR, output=float)
    scored = spark.read.parquet(source).mapInArrow(score, from_arrow_schema(score.schema))
    scored.write.mode("overwrite").parquet(target)


def score_with_dask(source: str, target: str) -> None:
    import dask  # noqa: PLC0415 - as above
    import dask.dataframe as dd  # noqa: PLC0415 - as above

    from eventml.batch import scorer  # noqa: PLC0415 - as above

    with dask.config.set(scheduler="processes", num_workers=2):
        rows = dd.read_parquet(source, dtype_backend="pyarrow", split_row_groups=True)
        rows.map_partitions(scorer(PREDICTOR, output=float)).to_parquet(
            target, write_index=False, overwrite=True
        )
    Path(target, "_SUCCESS").touch()


def score_alone(source: str, target: str) -> None:
    command = [sys.executable, "-m", "eventml", "score", PREDICTOR, "--from", source, "--to", target]
    subprocess.run([*command, "--checkpoint", "1"], check=True)  # noqa: S603 - our own command
    Path(target).with_suffix(".done").touch()


ENGINES = {"none": score_alone, "ray": score_with_ray, "spark": score_with_spark, "dask": score_with_dask}


def is_done(engine: str, target: Path) -> bool:
    return target.with_suffix(".done").exists() if engine == "none" else (target / "_SUCCESS").exists()


def descendants(pid: int) -> list[int]:
    """The process and all that it has started."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(
                int(stat.parent.name)
            )
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def memory(pids: list[int]) -> float:
    """The memory of processes in MB, what they share counted once."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return total / 1024


def run(
    engine: str, source: Path, target: Path, kill_after: float | None = None
) -> tuple[float, float, bool]:
    """Run an engine in a process of its own; return its seconds, its memory, and whether it finished."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
    environment |= {"OMP_NUM_THREADS": "1", "SPARK_LOCAL_IP": "127.0.0.1", "PYTHONWARNINGS": "ignore"}
    code = f"from benchmarks.engines import ENGINES; ENGINES[{engine!r}]({str(source)!r}, {str(target)!r})"
    main = f"if __name__ == '__main__':\n    {code}\n"  # Dask's workers import the program
    program = target.parent / f"run_{engine}.py"
    program.write_text(main)
    started, peak = time.monotonic(), 0.0
    with Path(target.parent, f"{engine}.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, str(program)], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        family: set[int] = set()
        while process.poll() is None:
            family |= set(descendants(process.pid))
            peak = max(peak, memory(list(family)))
            if kill_after is not None and time.monotonic() - started > kill_after:
                for pid in [process.pid, *descendants(process.pid)]:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
            time.sleep(0.25)
    seconds = time.monotonic() - started
    if kill_after is None and process.returncode:
        raise RuntimeError(f"{engine} ended with {process.returncode}: see {target.parent}/{engine}.log")
    return seconds, peak, process.returncode == 0


def predictions(target: Path) -> pa.Table:
    """The predictions of a target in the order of their ids; there is none twice."""
    found: Any = pads.dataset(str(target), format="parquet", exclude_invalid_files=True).to_table()
    if "rejected" in found.column_names:
        found = found.filter(pc.is_null(found["rejected"])).drop_columns(["rejected"])
    found = found.cast(
        pa.schema([(f.name, pa.string() if "string" in str(f.type) else f.type) for f in found.schema])
    )
    return found.select(sorted(found.column_names)).sort_by("id").combine_chunks()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--engines", default="none,ray,spark,dask")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rides"
        generate(source, options.rows)
        measure(source, options.rows, options.kills, options.engines.split(","))


def measure(source: Path, rows: int, kills: int, engines: Sequence[str]) -> None:
    """Run each engine, then again with kills, and compare the predictions."""
    chance, expected = random.Random(7), None
    rates: dict[str, list[float]] = {}
    for engine in engines:
        target = source.parent / ("none.parquet" if engine == "none" else engine)
        shutil.rmtree(target, ignore_errors=True)
        target.with_suffix(".done").unlink(missing_ok=True)
        seconds, peak, _ = run(engine, source, target)
        rates[engine] = [rows / seconds]
        found = predictions(target)
        same = "the first" if expected is None else f"the same to the last bit: {found.equals(expected)}"
        expected = found if expected is None else expected
        distinct = pc.count_distinct(found["id"]).as_py()
        print(
            f"{engine}: {rows / seconds:,.0f} rows/s, {seconds:.1f} s, {peak:,.0f} MB, "
            f"{len(found):,} predictions of {distinct:,} rides, {same}",
            flush=True,
        )
        if not kills:
            continue
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True) if target.is_file() else None
        target.with_suffix(".done").unlink(missing_ok=True)
        spent = [run(engine, source, target, chance.uniform(0, seconds))[0] for _ in range(kills)]
        last, _, _ = run(engine, source, target)
        print(
            f"{engine}: killed after {', '.join(f'{one:.0f}' for one in spent)} s, then {last:.1f} s: every "
            f"row once, as without kills: {predictions(target).equals(found)}",
            flush=True,
        )
    report(machine("pyarrow"), rates, engines[0], "rows/s")


if __name__ == "__main__":
    main()
