"""SIGKILL at any moment: the next run resumes, and the target has every row once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from tests.batch.conftest import read

TARGETS = [
    "out.parquet",
    "out.csv",
    "out.jsonl",
    "out.delta",
    "sqlite:///out.db#predictions",
    "duckdb:///out.db#predictions",
]


def test_a_run_killed_twice_is_complete(target: str, seed: int) -> None:
    _score_with_kills(target, rows=120_000, kills=2, source="rides.parquet", seed=seed, slow=0.1, longest=1.5)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", ["rides.parquet", "sqlite:///rides.db#rides"])
def test_a_run_of_a_million_rows_killed_ten_times_is_complete(source: str, target: str, seed: int) -> None:
    _score_with_kills(target, rows=1_000_000, kills=10, source=source, seed=seed, slow=0.05, longest=4.0)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    if request.param.startswith("duckdb"):
        pytest.importorskip("duckdb_sqlalchemy")
    return str(request.param)


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    print(f"KILL_SEED={chosen}")  # noqa: T201 - shown when the test fails
    return chosen


def _score_with_kills(
    target: str, *, rows: int, kills: int, source: str, seed: int, slow: float, longest: float
) -> None:
    chance = random.Random(seed)
    _write(source, rows)
    killed = 0
    rows_at_kill = []
    while killed < kills:
        process = _start(source, target, slow)
        while not Path("loaded").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, longest))  # during a read, a call, a write, or at the end
        process.kill()
        Path("loaded").unlink(missing_ok=True)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in {-9, 0}, errors
        killed += 1
        rows_at_kill.append(_progress(target))
    process = _start(source, target, 0)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    summary = json.loads(output)
    print(f"rows at the checkpoint after each kill: {rows_at_kill}; the last run: {summary}")  # noqa: T201 - as above
    assert summary["read"] == rows
    found = _found(target)
    assert len(found) == rows
    ids = [f"r-{number:07d}" for number in range(rows)]
    assert [one for one, _ in sorted(found)] == ids
    expected = _distances(rows) * 2.1
    assert [value for _, value in sorted(found)] == expected.tolist()


def _start(source: str, target: str, slow: float) -> subprocess.Popen[str]:
    options = ["--checkpoint", "0.1", "--chunk", "8192", "--json"]
    return subprocess.Popen(  # noqa: S603 - our own command
        [
            sys.executable,
            "-m",
            "eventml",
            "score",
            "killed_app:slow",
            "--from",
            source,
            "--to",
            target,
            *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SLOW": str(slow)},
    )


def _distances(rows: int) -> Any:
    return np.random.default_rng(7).random(rows) * 30


def _write(source: str, rows: int) -> None:
    table = pa.table(
        {
            "ride_id": [f"r-{number:07d}" for number in range(rows)],
            "zone": np.arange(rows) % 200 + 20,
            "distance": _distances(rows),
        }
    )
    if source.endswith(".parquet"):
        pq.write_table(table, source, row_group_size=100_000)
        return
    engine = sa.create_engine(source.partition("#")[0])
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE rides (ride_id TEXT PRIMARY KEY, zone INT, distance REAL)")
        values = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        connection.exec_driver_sql("INSERT INTO rides VALUES (?, ?, ?)", values)
    engine.dispose()


def _progress(target: str) -> int:
    """The rows before the checkpoint that the killed run left."""
    if "://" not in target:
        manifest = Path(f"{target}.eventml/manifest.json")
        if not manifest.exists():
            return 0
        return int(json.loads(manifest.read_bytes())["checkpoint"]["counts"]["read"])
    if not Path("out.db").exists():
        return 0
    engine = sa.create_engine(target.partition("#")[0])
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("eventml_score"):
            counts = None
        else:
            counts = connection.exec_driver_sql("SELECT counts FROM eventml_score").scalar()
    engine.dispose()
    return int(json.loads(counts)["read"]) if counts else 0


def _found(target: str) -> list[tuple[str, float]]:
    if "://" in target:
        engine = sa.create_engine(target.partition("#")[0])
        with engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT id, value FROM predictions").all()
        engine.dispose()
        return [(one, value) for one, value in found]
    return [(row["id"], row["value"]) for row in read(target).rows]
