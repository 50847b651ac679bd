"""DuckDB files as sources and targets of a job."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from eventml.cli.app import app
from eventml.errors import ConfigError, JobError, SourceError, TargetError
from tests.batch.conftest import read, rides, write

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Row, ScoreNow

duckdb: Any = pytest.importorskip("duckdb")
pytest.importorskip("duckdb_sqlalchemy")
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")

LAKE = "duckdb:///lake.duckdb"
ROWS = [*rides(2000), {**rides(1)[0], "ride_id": "r-9999999", "zone": 13}]


@pytest.fixture
def expected(scored_now: ScoreNow) -> list[Row]:
    scored_now("minutes", write("rides.parquet", ROWS), "expected.parquet")
    return read("expected.parquet").rows


def make(rows: list[Row], *, file: str = "lake.duckdb") -> str:
    """Write rows to the table `rides` of a file."""
    write("made.parquet", rows)
    with duckdb.connect(file) as lake:
        lake.execute("CREATE OR REPLACE TABLE rides AS FROM 'made.parquet'")
    return f"duckdb:///{file}#rides"


def found(table: str = "minutes", *, file: str = "lake.duckdb") -> list[Row]:
    with duckdb.connect(file, read_only=True) as lake:
        rows: list[Row] = lake.sql(f'FROM "{table}" ORDER BY id').to_arrow_table().to_pylist()
    return rows


def test_rows_are_scored_into_a_table_of_the_same_file(expected: list[Row], scored_now: ScoreNow) -> None:
    source = make(ROWS)
    first = scored_now("minutes", source, f"{LAKE}#minutes", chunk=300)
    assert (first.read, first.written, first.rejected) == (2001, 2000, 1)
    assert found() == expected
    assert [row["id"] for row in found("minutes_rejects")] == ["r-9999999"]
    again = scored_now("minutes", source, f"{LAKE}#minutes", chunk=300)
    assert (again.written, again.unchanged) == (0, 2000)
    changed = [{**row, "distance": row["distance"] + (number < 5)} for number, row in enumerate(ROWS)]
    make([*changed, *rides(3, first=2000)])
    last = scored_now("minutes", source, f"{LAKE}#minutes", chunk=300)
    assert (last.written, last.changed, last.unchanged) == (8, 5, 1995)
    assert len(found()) == 2003


def test_between_files_and_by_a_query(expected: list[Row], scored_now: ScoreNow) -> None:
    make(ROWS)
    scored_now("minutes", "rides.parquet", "duckdb:///out.duckdb#minutes")
    assert found(file="out.duckdb") == expected
    query = "SELECT *, '1:2' AS t, zone::text AS z FROM rides WHERE zone < 40"
    summary = scored_now("minutes", LAKE, "out.parquet", query=query)
    assert {row["zone"] for row in read("out.parquet").rows} == set(range(20, 40))
    assert summary.written == 200


def test_new_rows_alone(expected: list[Row], scored_now: ScoreNow) -> None:
    source = make(ROWS[:1500])
    scored_now("minutes", source, f"{LAKE}#minutes", only_new=True)
    make(ROWS)
    summary = scored_now("minutes", source, f"{LAKE}#minutes", only_new=True, chunk=64)
    assert (summary.written, summary.unchanged) == (500, 1500)
    assert found() == expected


def test_a_run_that_failed_is_resumed(expected: list[Row], scored_now: ScoreNow) -> None:
    source = make([{**ROWS[-1], "ride_id": "r-0001000b"}, *ROWS[:-1]])
    with pytest.raises(JobError, match="--max-rejects"):
        scored_now("minutes", source, f"{LAKE}#minutes", max_rejects=0, chunk=100)
    summary = scored_now("minutes", source, f"{LAKE}#minutes", chunk=100)
    assert 1000 <= summary.resumed <= 1300
    assert summary.read == 2001
    assert found() == expected


def test_a_prediction_that_is_gone_is_deleted(scored_now: ScoreNow) -> None:
    rows = rides(100)
    for zone in (20, 15):  # which has no output
        source = make([*rows[:50], {**rows[50], "zone": zone}, *rows[51:]])
        scored_now("minutes", source, f"{LAKE}#minutes", chunk=30)
    assert len(found()) == 99


def test_a_table_with_types_and_constraints_of_its_own(scored_now: ScoreNow) -> None:
    make([{**row, "ride_id": number} for number, row in enumerate(rides(100))])
    with duckdb.connect("lake.duckdb") as lake:
        lake.execute(
            "CREATE TABLE minutes (id BIGINT, minutes REAL CHECK (minutes < 60), zone SMALLINT, "
            "prediction_id TEXT, predictor TEXT, model TEXT, model_version TEXT, n INT DEFAULT 7, "
            "PRIMARY KEY (id, predictor, model_version))"
        )
    with pytest.raises(
        TargetError, match=r"cannot be written: Constraint Error: CHECK"
    ):  # without savepoints
        scored_now("numbered", f"{LAKE}#rides", f"{LAKE}#minutes", chunk=64)
    assert [row["id"] for row in found()] == list(range(64))
    with duckdb.connect("lake.duckdb") as lake:
        lake.execute("UPDATE rides SET distance = 1 WHERE ride_id >= 64")
    assert scored_now("numbered", f"{LAKE}#rides", f"{LAKE}#minutes", chunk=64).written == 36 + 64
    assert [row["id"] for row in found()] == list(range(100))


@pytest.mark.parametrize("source", ["rides.csv", f"{LAKE}#rides"])
def test_a_file_that_another_process_has_open_has_the_status_of_a_run_under_way(source: str) -> None:
    make(rides(3))
    write("rides.csv", rides(3))
    hold = "import duckdb, sys; lake = duckdb.connect('lake.duckdb'); print(flush=True); sys.stdin.read()"
    job = ["score", "scored_app:minutes", "--from", source, "--to", f"{LAKE}#minutes"]
    with subprocess.Popen(  # noqa: S603 - our own Python
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "\n"
        refused = CliRunner().invoke(app, job)
        other.communicate("", timeout=30)
    assert refused.exit_code == 75, refused.output
    assert "Only one process at a time can open a DuckDB file: try again later" in " ".join(
        refused.stderr.split()
    )
    assert CliRunner().invoke(app, job).exit_code == 0


def test_what_cannot_be_read_or_written_is_named(scored_now: ScoreNow, folder: Path) -> None:
    make(rides(3))
    for url, error in (("duckdb:///no.duckdb#rides", SourceError), ("duckdb:///:memory:#rides", ConfigError)):
        with pytest.raises(error):
            scored_now("minutes", url, "out.parquet")
    assert not (folder / "no.duckdb").exists()
    with pytest.raises(SourceError, match=r"there is no table 'ride'; there are: rides"):
        scored_now("minutes", f"{LAKE}#ride", "out.parquet")
    with pytest.raises(SourceError):
        scored_now("minutes", LAKE, "out.parquet", query="DELETE FROM rides RETURNING *")
    with pytest.raises(TargetError, match="no column"):
        scored_now("minutes", f"{LAKE}#rides", f"{LAKE}#rides")
    assert scored_now("minutes", f"{LAKE}#rides", "out.parquet").read == 3
