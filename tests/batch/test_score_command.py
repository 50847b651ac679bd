"""`eventml score` on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from eventml.cli.app import app
from eventml.cli.score import next_times
from eventml.errors import ConfigError
from tests.batch.conftest import read, rides, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.testing import Result


def score(*args: str) -> Result:
    return CliRunner().invoke(app, ["score", *args], catch_exceptions=False)


def test_no_secret_of_a_url_is_in_the_output_or_in_the_targets_tables() -> None:
    write("sqlite:///rides.db#rides", rides(3))
    source, target = "sqlite:///rides.db?passcode=zQ8kXw4v#rides", "sqlite:///out.db?sig=zQ8kXw4v#predictions"
    for options in ([], ["--json"]):
        result = score("scored_app:minutes", "--from", source, "--to", target, *options)
        assert result.exit_code == 0, result.output
        assert "sqlite:///rides.db?***#rides" in result.stdout
        assert "zQ8kXw4v" not in result.output
    assert b"sqlite:///rides.db?***#rides" in Path("out.db").read_bytes()
    assert b"zQ8kXw4v" not in Path("out.db").read_bytes()


def test_columns_to_partition_by_may_have_spaces_and_repetitions() -> None:
    write("rides.parquet", [{**ride, "zone": 20} for ride in rides(3)])
    options = ("--from", "rides.parquet", "--to", "out/", "--partition-by", "zone, model_version,zone,")
    assert score("scored_app:minutes", *options).exit_code == 0
    assert [path.parent.as_posix() for path in Path().rglob("*-0.parquet")] == [
        "out/zone=20/model_version=v1"
    ]


def test_a_column_to_partition_by_that_is_not_written_is_a_wrong_option() -> None:
    write("rides.parquet", rides(3))
    refused = score(
        "scored_app:minutes", "--from", "rides.parquet", "--to", "out/", "--partition-by", "month"
    )
    assert refused.exit_code == 2
    assert "--partition-by: there is no column 'month'" in refused.stderr
    assert not Path("out").exists()


def test_the_summary_is_a_line_of_text_or_json() -> None:
    write("rides.parquet", rides(10))
    result = score("scored_app:minutes", "--from", "rides.parquet", "--to", "out.csv")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(
        "minutes, model doubling v1: 10 rows of rides.parquet; 10 predictions written to out.csv ("
    )
    summary = json.loads(
        score("scored_app:minutes", "--from", "rides.parquet", "--to", "out.csv", "--json").stdout
    )
    assert summary.pop("seconds") > 0
    assert summary.pop("rows_per_second") > 0
    assert summary.pop("load_seconds") >= 0
    assert summary == {
        "predictor": "minutes",
        "model": "doubling",
        "model_version": "v1",
        "source": "rides.parquet",
        "target": "out.csv",
        "state": "finished",
        "read": 10,
        "written": 10,
        "changed": 0,
        "unchanged": 0,
        "no_output": 0,
        "rejected": 0,
        "duplicates": 0,
        "resumed": 0,
        "rejects": None,
    }


def test_the_summary_of_another_run_says_what_has_changed() -> None:
    rows = rides(10)
    job = ["scored_app:minutes", "--from", "rides.parquet", "--to", "sqlite:///out.db#predictions"]
    write("rides.parquet", rows)
    first = score(*job).stdout
    assert "; 10 predictions written to sqlite:///out.db#predictions (" in first
    assert " s of them to load the model, " in first
    rows[3]["distance"] = rows[4]["distance"] = 100.0
    write("rides.parquet", [*rows, *rides(3, first=50)])
    table = "sqlite:///out.db#predictions"
    assert f"; 3 new predictions, 0 changed, 10 kept in {table} (" in score(*job, "--only-new").stdout
    assert f"; 0 new predictions, 2 changed, 11 unchanged in {table} (" in score(*job).stdout
    assert f"; 0 new predictions, 0 changed, 13 unchanged in {table} (" in score(*job, "--overwrite").stdout


def test_the_interval_of_a_query_is_given_as_parameters() -> None:
    write("sqlite:///rides.db#rides", rides(20))
    query = "SELECT *, '1:30' AS at FROM rides WHERE zone >= :start AND zone < :end"
    job = ["scored_app:minutes", "--from", "sqlite:///rides.db", "--to", "out.csv", "--query", query]
    assert score(*job, "--param", "start=22", "--param", "end=25").exit_code == 0
    assert [row["zone"] for row in read("out.csv").rows] == [22, 23, 24]
    missing = "--param month: --query has no :month; add it where the value belongs"
    form = "--param start: expected NAME=VALUE, with :NAME in --query"
    for wrong, message in (("month=1", missing), ("start", form)):
        refused = score(*job, "--param", wrong)
        assert refused.exit_code == 2
        assert message in " ".join(refused.stderr.split())


def test_a_name_in_the_query_without_a_value_is_named() -> None:
    write("sqlite:///rides.db#rides", rides(3))
    job = ["scored_app:minutes", "--from", "sqlite:///rides.db", "--to", "out.csv", "--query"]
    refused = score(*job, "SELECT * FROM rides WHERE zone > :start AND zone < :end", "--param", "start=1")
    assert refused.exit_code == 2
    stderr = " ".join(refused.stderr.split())
    assert "--query has :end, to which no --param gives a value: add --param end=VALUE" in stderr
    failed = score(*job, "SELECT ':a', x::y[1:z], 1:b FROM rides")
    assert failed.exit_code == 1
    assert "--param" not in failed.stderr


@pytest.mark.parametrize("source", ["rides.csv", "rides.parquet", "sqlite:///rides.db#rides"])
def test_a_table_or_a_column_that_the_source_lacks_is_a_wrong_option(source: str) -> None:
    write(source, rides(3))
    job = ["scored_app:minutes", "--from", source, "--to", "out.jsonl"]
    refused = [(score(*job, "--id", "nope"), "has no column 'nope' to take the ids from")]
    write(source, [{"ride_id": row["ride_id"], "zone": row["zone"]} for row in rides(3)])
    if "#" in source:
        query = "SELECT ride_id, zone FROM rides"
        job[2] = "sqlite:///rides.db"
        refused.append((score(*job, "--query", query), "has no column 'distance', which RideStarted needs"))
        job[2] += "#ride"
        refused.append((score(*job), "there is no table 'ride'; there are: rides"))
    else:
        refused.append((score(*job), "has no column 'distance', which RideStarted needs"))
    for result, message in refused:
        assert message in " ".join(result.stderr.split())
        assert result.exit_code == 2


def test_rows_with_an_id_of_an_earlier_row_are_told_by_their_numbers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = rides(10)
    write("rides.csv", [*rows, rows[2]])
    result = score("scored_app:minutes", "--from", "rides.csv", "--to", "out.csv")
    assert result.exit_code == 3
    assert "rides.csv: line 12 has the id of line 4, and is rejected" in caplog.text
    assert "; 1 rejected (1 with the id of an earlier row): see out.csv.rejects.jsonl (" in result.stdout


def test_new_rows_alone_are_refused_for_a_file() -> None:
    write("rides.csv", rides(1))
    result = score("scored_app:minutes", "--from", "rides.csv", "--to", "out.csv", "--only-new")
    assert result.exit_code == 2
    assert "--only-new: out.csv is a file, and each run replaces it" in result.stderr


def test_rejects_have_their_own_exit_status() -> None:
    rows = rides(10)
    rows[4]["zone"] = 13
    write("rides.parquet", rows)
    job = ["scored_app:minutes", "--from", "rides.parquet", "--to", "sqlite:///out.db#predictions"]
    rejected = score(*job)
    assert rejected.exit_code == 3
    assert "1 rejected: see sqlite:///out.db#predictions_rejects" in rejected.stdout
    assert score(*job, "--max-rejects", "1").exit_code == 0
    assert score(*job, "--max-rejects", "0").exit_code == 1


@pytest.mark.parametrize(
    ("predictor", "reason"),
    [
        ("scored_app", "expected MODULE:PREDICTOR"),
        ("scored_app:minute", "did you mean scored_app:minutes?"),
        ("scored_app:bus", "no predictor of that name"),
        ("scored_app:model", "no predictor of that name"),
        ("no_such_module:x", "no module is named 'no_such_module'"),
    ],
)
def test_an_unknown_predictor_is_refused(predictor: str, reason: str) -> None:
    refused = score(predictor, "--from", "rides.parquet", "--to", "out.csv")
    assert refused.exit_code == 2
    assert reason in refused.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--from", "rides", "--to", "out.csv"], "--from rides: expected a SQLAlchemy URL"),
        (
            ["--from", "a.csv", "--to", "sqlite:///x.db"],
            "--to sqlite:///x.db: no table is named: add #table to the URL",
        ),
        (["--from", "a.csv", "--to", "b.csv", "--cron", "x y"], "--cron 'x y': expected minute"),
        (["--from", "a.csv", "--to", "b.csv", "--cron", "0 0 31 2 *"], "no such time is to come"),
        (
            ["--from", "a.csv", "--to", "b.csv", "--cron", "@daily", "--time-zone", "Mars"],
            "the time zone 'Mars' is not known",
        ),
    ],
)
def test_invalid_options_are_refused(options: list[str], reason: str) -> None:
    refused = score("scored_app:minutes", *options)
    assert refused.exit_code == 2
    assert reason in refused.stderr


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [
        ("*/15 * * * *", 15 * 60),
        ("30 4 * * *", 16.5 * 3600),
        ("@daily", 12 * 3600),
        ("0 13 * * mon-fri", 3600),
        ("0 12 * * *", 24 * 3600),
        ("* * * * * */10", 10),
    ],
)
def test_cron_by_the_local_clock(expression: str, seconds: float) -> None:
    noon = datetime(2024, 5, 1, 12, 0, tzinfo=ZoneInfo("Europe/Berlin"))
    assert next_times(expression, noon.tzinfo or UTC)(noon) - noon == timedelta(seconds=seconds)


@pytest.mark.parametrize("expression", ["", "x y", "61 * * * *", "* * * *", "0 4 31 2 *"])
def test_a_cron_expression_that_is_none(expression: str) -> None:
    with pytest.raises(ConfigError, match="--cron"):
        next_times(expression, UTC)


def test_a_failure_is_one_line_and_exit_status_1() -> None:
    failed = score("scored_app:minutes", "--from", "rides.parquet", "--to", "out.csv")
    assert failed.exit_code == 1
    assert failed.stderr.strip() == "error: rides.parquet: No such file or directory"


@pytest.fixture
def start() -> Iterator[object]:
    started: list[subprocess.Popen[str]] = []

    def run(*args: str, **environment: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "eventml", "score", *args],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **environment},
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.parametrize("target", ["out.parquet", "sqlite:///out.db#predictions"])
def test_a_signal_stops_the_run_and_the_next_one_resumes(target: str, start: object) -> None:
    write("rides.parquet", rides(4000))
    job = ["scored_app:slow", "--from", "rides.parquet", "--to", target, "--chunk", "100", "--json"]
    process = start(*job, SLOW="0.1")  # type: ignore[operator]  # the fixture above
    _wait_for(Path("out.db" if "://" in target else "out.parquet.eventml"))
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    stopped = json.loads(output)
    assert stopped["state"] == "stopped"
    assert stopped["read"] < 4000
    process = start(*job)  # type: ignore[operator]  # as above
    output, errors = process.communicate(timeout=60)
    finished = json.loads(output)
    assert (process.returncode, finished["resumed"]) == (0, stopped["read"]), errors
    assert read(target).ids == [row["ride_id"] for row in rides(4000)]


def test_a_second_signal_abandons_a_hung_model(start: object) -> None:
    write("rides.parquet", rides(10))
    process = start("scored_app:hung", "--from", "rides.parquet", "--to", "out.csv")  # type: ignore[operator]  # as above
    _wait_for(Path("out.csv.eventml"))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert not Path("out.csv").exists()


def test_a_repeated_job_scores_what_is_new_or_has_changed(start: object) -> None:
    write("sqlite:///rides.db#rides", rides(10))
    job = [
        "scored_app:minutes",
        "--from",
        "sqlite:///rides.db#rides",
        "--to",
        "sqlite:///out.db#predictions",
        "--cron",
        "* * * * * *",
        "--json",
    ]
    process = start(*job)  # type: ignore[operator]  # as above
    assert json.loads(process.stdout.readline())["written"] == 10
    rows = rides(15)
    rows[3]["distance"] = 100.0
    write("sqlite:///later.db#rides", rows)
    Path("later.db").replace("rides.db")
    summary = {"written": 0}
    while not summary["written"]:
        summary = json.loads(process.stdout.readline())
    assert (summary["written"], summary["changed"], summary["unchanged"]) == (6, 1, 9)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert len(read("sqlite:///out.db#predictions").rows) == 15


def test_a_repeated_job_goes_on_after_a_run_that_failed(start: object) -> None:
    job = ["scored_app:minutes", "--from", "rides.csv", "--to", "out.csv", "--cron", "* * * * * *", "--json"]
    process = start(*job)  # type: ignore[operator]  # as above
    while "No such file" not in process.stderr.readline():
        assert process.poll() is None
    write("later.csv", rides(10))
    Path("later.csv").rename("rides.csv")
    assert json.loads(process.stdout.readline())["written"] == 10


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
