"""`--max-rejects` over repeated runs, as a scheduler starts them: none lets more rejects through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eventml.cli.app import app
from tests.batch.conftest import read, rides, write

SOURCES = ["rides.csv", "rides.jsonl", "rides.parquet", "sqlite:///rides.db#rides"]
TARGETS = [
    "out.csv",
    "out.parquet",
    "out.jsonl",
    "out/",
    "out.delta",
    "sqlite:///out.db#out",
    "duckdb:///out.duckdb#out",
]
JOB = ("score", "scored_app:minutes", "--chunk", "10", "--checkpoint", "0", "--json")


def make(source: str, bad: int) -> str:
    """Write 60 rides, every tenth of which is rejected, up to so many."""
    return write(
        source,
        [{**row, "zone": 13 if n % 10 == 5 and n < bad * 10 else 20} for n, row in enumerate(rides(60))],
    )


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # of DuckDB's dialect
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_the_same_command_again_fails_until_the_limit_allows_the_rejects_or_there_are_fewer(
    source: str, target: str
) -> None:
    if "duckdb" in target:
        pytest.importorskip("duckdb_sqlalchemy")
    if "delta" in target:
        pytest.importorskip("deltalake")
    command = [*JOB, "--from", make(source, 5), "--to", target, "--max-rejects"]
    for _ in range(4):
        stopped = CliRunner().invoke(app, [*command, "2"])
        assert stopped.exit_code == 1, stopped.output
        assert "3 rows of 30 were rejected, and --max-rejects allows 2" in " ".join(stopped.stderr.split())
    if "://" not in target:
        assert not Path(target).exists()
    raised = CliRunner().invoke(app, [*command, "5"])
    assert raised.exit_code == 0
    summary = json.loads(raised.stdout)
    assert 0 < summary["resumed"] <= 30
    predicted = summary["written"] + summary["unchanged"]  # a table has those of the stopped runs
    assert (summary["read"], summary["rejected"], predicted) == (60, 5, 55)
    assert CliRunner().invoke(app, [*command, "4"]).exit_code == 1
    make(source, 1)
    mended = CliRunner().invoke(app, [*command, "2"])
    assert mended.exit_code == 0, mended.output
    summary = json.loads(mended.stdout)
    assert (summary["resumed"], summary["read"], summary["rejected"]) == (0, 60, 1)


def test_the_message_names_the_file_that_has_the_rejects_of_the_run() -> None:
    command = [*JOB, "--from", make("rides.csv", 3), "--to", "out.csv", "--max-rejects"]
    stopped = CliRunner().invoke(app, [*command, "1"])
    assert "They are kept in out.csv.eventml/rejects.jsonl." in " ".join(stopped.stderr.split())
    assert len(Path("out.csv.eventml/rejects.jsonl").read_text().splitlines()) == 2
    finished = CliRunner().invoke(app, [*command, "3"])
    assert json.loads(finished.stdout)["rejects"] == "out.csv.rejects.jsonl"
    assert len(read("out.csv").rejects) == 3
