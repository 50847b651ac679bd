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
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from tests.batch.conftest import read

CHUNK = 4096
SLOW = 0.04  # seconds that a call takes

KINDS = ["out.parquet", "sqlite:///out.db#predictions", "duckdb:///out.db#predictions"]
"""Targets with checkpoints of their own."""

FORMATS = ["out.csv", "out.jsonl", "out.delta", "out/"]
"""Targets that differ from `out.parquet` at the end of a run only: see `test_killed_steps.py` too."""


@pytest.mark.parametrize("target", [*KINDS, *FORMATS])
def test_a_run_killed_twice_is_complete(target: str, seed: int) -> None:
    _score_with_kills(target, rows=40_000, kills=2, source="rides.parquet", seed=seed)


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("target", "source", "kills"),
    [
        *((target, "rides.parquet", 10) for target in KINDS),
        *((target, "sqlite:///rides.db#rides", 5) for target in KINDS),
        *((target, "rides.parquet", 5) for target in FORMATS),
    ],
)
def test_a_run_killed_at_random_is_complete(target: str, source: str, kills: int, seed: int) -> None:
    _score_with_kills(target, rows=200_000, kills=kills, source=source, seed=seed)


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    print(f"KILL_SEED={chosen}")  # noqa: T201 - shown when the test fails
    return chosen


def _score_with_kills(target: str, *, rows: int, kills: int, source: str, seed: int) -> None:
    if target.startswith("duckdb"):
        pytest.importorskip("duckdb_sqlalchemy")
    chance = random.Random(seed)
    _write(source, rows)
    killed = 0
    rows_at_kill = []
    while killed < kills:
        process = _start(source, target, SLOW)
        while not Path("loaded").exists() and process.poll() is None:
            time.sleep(0.01)
        # During a read, a call, a write, or at the end: a whole run takes twice the longest time, and more.
        time.sleep(chance.uniform(0, 0.2 + SLOW / 2 * rows / CHUNK))
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
    options = ["--checkpoint", "0.1", "--chunk", str(CHUNK), "--json"]
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
        pq.write_table(table, source, row_group_size=30_000)
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
        manifest = Path(f"{target.rstrip('/')}.eventml/manifest.json")
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
    rows = pads.dataset(target).to_table().to_pylist() if target == "out/" else read(target).rows
    return [(row["id"], row["value"]) for row in rows]
