"""The recipes for engines and schedulers run as printed, each where its library is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import kubernetes_validate  # type: ignore[import-untyped]
import pyarrow.dataset as pads
import pytest
import yaml

from tests.docs.printed import CONTEXTS, ROOT, blocks_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ENGINES: Final = blocks_of(ROOT / "docs/deployment/engines.md")
SCHEDULERS: Final = blocks_of(ROOT / "docs/deployment/schedulers.md")

RUN: Final = {
    "airflow": "from airflow.sdk import DAG\n",
    "dagster": "from dagster import materialize\n"
    "assert materialize([durations], partition_key='2024-01-02').success\n",
    "prefect": "print(score.fn('2024-01-02', '2024-01-03'))\n",
}
"""What runs a scheduler's recipe. Airflow needs a database of its own to run a DAG: it is imported only."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the app and the data that the pages take as known."""
    for file in (CONTEXTS / "rides").iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    run("import runpy; runpy.run_path('prepare.py')", tmp_path)
    return tmp_path


def run(program: str, folder: Path) -> str:
    """Run a program in a folder, with the commands of this environment."""
    (folder / "program.py").write_text(program)
    variables = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "DAGSTER_HOME": str(folder),
        "AIRFLOW_HOME": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def recipe(library: str) -> str:
    """The block that is titled by the library that it imports, which is installed."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    [found] = [
        b.text for b in [*ENGINES, *SCHEDULERS] if b.alone and f"\nimport {library}" in f"\n{b.text}"
    ] or [b.text for b in [*ENGINES, *SCHEDULERS] if b.alone and f"\nfrom {library}" in f"\n{b.text}"]
    return found


@pytest.mark.parametrize("library", ["ray", "pyspark", "dask", "polars"])
def test_an_engine_scores_the_trips(library: str, folder: Path) -> None:
    run(recipe(library), folder)
    [target] = [path for path in folder.glob("durations*") if "rejects" not in path.name]
    found = pads.dataset(target, format="parquet").to_table().to_pylist()
    assert sorted(row["id"] for row in found) == sorted(f"r-{n}" for n in range(1, 13))
    assert {row["predictor"] for row in found} == {"duration"}
    assert "rejected" not in found[0]


def test_duckdb_scores_the_trips(folder: Path) -> None:
    count = (
        "with duckdb.connect('lake.duckdb') as lake: print(lake.sql('FROM durations').fetchall().__len__())\n"
    )
    assert run(recipe("duckdb") + count, folder) == "12\n"


def test_delta_scores_the_trips(folder: Path) -> None:
    # Not by `to_pyarrow_table`: its threads sometimes abort a process that ends, when they ask for Python.
    count = (
        "table = QueryBuilder().register('durations', DeltaTable('durations.delta'))\n"
        "print(sum(batch.num_rows for batch in table.execute('SELECT * FROM durations')))\n"
    )
    assert run(recipe("deltalake") + count, folder) == "12\n"


@pytest.mark.parametrize("library", RUN)
def test_a_scheduler_runs_its_recipe(library: str, folder: Path) -> None:
    printed = run(recipe(library) + "\n\n" + RUN[library], folder)
    if library == "prefect":
        assert "'written': 12" in printed


def test_the_cron_job_is_one_of_kubernetes() -> None:
    [manifest] = [yaml.safe_load(block.text) for block in SCHEDULERS if block.kind == "yaml"]
    kubernetes_validate.validate(json.loads(json.dumps(manifest)), "1.31", strict=True)
