"""Invalid input: an error that names the reason, an exit status that is not 0, and nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventml.deploy.batch.chunks import RejectedRow
from eventml.errors import ConfigError, JobError, SourceError, TargetError
from tests.batch.conftest import SOURCES, locked, read, rides, write

if TYPE_CHECKING:
    from tests.batch.conftest import ScoreNow


@pytest.mark.parametrize("source", ["rides.parquet", "rides.csv", "sqlite:///rides.db#rides"])
def test_a_missing_column_is_refused(source: str, scored_now: ScoreNow) -> None:
    if "://" in source:
        with sqlite3.connect("rides.db") as connection:
            connection.execute("CREATE TABLE rides (ride_id TEXT, zone INT, length REAL)")
        connection.close()
    else:
        write(source, [{"ride_id": "r", "zone": 1, "length": 1.0}])
    with pytest.raises(
        SourceError, match=r"no column 'distance', which RideStarted needs; there are: .*length"
    ):
        scored_now("minutes", source, "out.parquet")
    assert not Path("out.parquet").exists()
    assert not list(Path().glob("out*"))


@pytest.mark.parametrize("source", ["rides.parquet", "rides.csv", "sqlite:///rides.db#rides"])
def test_a_missing_id_column_is_refused(source: str, scored_now: ScoreNow) -> None:
    write(source, rides(1))
    with pytest.raises(SourceError, match=r"no column 'trip' to take the ids from; .*Choose one with --id"):
        scored_now("minutes", source, "out.parquet", id_column="trip")


def test_an_id_column_must_be_known(scored_now: ScoreNow) -> None:
    import scored_app  # type: ignore[import-not-found]  # noqa: PLC0415 - found on a path set by a fixture

    scored_app.bus.topics.clear()
    with pytest.raises(
        ConfigError, match=r"Name it with --id, .*or give the topic 'rides.started' an id_field"
    ):
        scored_now("minutes", write("rides.parquet", rides(1)), "out.parquet")


def test_a_consumer_is_refused(scored_now: ScoreNow) -> None:
    with pytest.raises(ConfigError, match="log is a consumer"):
        scored_now("log", write("rides.parquet", rides(1)), "out.parquet")


def test_a_missing_table_is_refused(scored_now: ScoreNow) -> None:
    write("sqlite:///rides.db#rides", rides(1))
    with pytest.raises(SourceError, match=r"there is no table 'ride'; there are: rides"):
        scored_now("minutes", "sqlite:///rides.db#ride", "out.parquet")


@pytest.mark.parametrize("source", [*SOURCES[:3], "sqlite:///rides.db#rides"])
def test_a_missing_file_is_refused(source: str, scored_now: ScoreNow) -> None:
    with pytest.raises(SourceError, match=r"No such file|no such file"):
        scored_now("minutes", source, "out.parquet")
    assert not Path("rides.db").exists()


def test_a_missing_folder_is_refused(scored_now: ScoreNow) -> None:
    write("rides.parquet", rides(1))
    with pytest.raises(TargetError, match="there is no folder"):
        scored_now("minutes", "rides.parquet", "none/out.parquet")
    with pytest.raises(ConfigError, match="there is no folder"):
        scored_now("minutes", "rides.parquet", "sqlite:///none/out.db#predictions")


def test_an_invalid_query_is_refused(scored_now: ScoreNow) -> None:
    write("sqlite:///rides.db#rides", rides(1))
    with pytest.raises(SourceError, match="syntax error"):
        scored_now("minutes", "sqlite:///rides.db", "out.parquet", query="SELECT FROM rides WHERE")


def test_a_query_cannot_write_to_the_source(scored_now: ScoreNow) -> None:
    write("sqlite:///rides.db#rides", rides(3))
    with pytest.raises(SourceError):
        scored_now("minutes", "sqlite:///rides.db", "out.parquet", query="DELETE FROM rides RETURNING *")
    with sqlite3.connect("rides.db") as connection:
        assert connection.execute("SELECT count(*) FROM rides").fetchone() == (3,)
    connection.close()


def test_a_file_that_is_no_parquet_is_refused(scored_now: ScoreNow) -> None:
    Path("rides.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        scored_now("minutes", "rides.parquet", "out.csv")


def test_a_damaged_parquet_file_is_refused(scored_now: ScoreNow) -> None:
    write("rides.parquet", rides(5000))
    whole = bytearray(Path("rides.parquet").read_bytes())
    for place in range(200, 20_000, 7):
        whole[place] ^= 0x5A
    Path("rides.parquet").write_bytes(whole)
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        scored_now("minutes", "rides.parquet", "out.csv")
    assert not Path("out.csv").exists()


def test_a_file_that_is_no_database_is_refused(scored_now: ScoreNow) -> None:
    Path("rides.db").write_bytes(b"this is no database, " * 100)
    with pytest.raises(SourceError, match="not a database"):
        scored_now("minutes", "sqlite:///rides.db#rides", "out.csv")


def test_a_line_that_is_no_json_object_is_rejected(scored_now: ScoreNow) -> None:
    good = write("rides.jsonl", rides(5))
    lines = Path(good).read_bytes().splitlines()
    bad = [
        b'{"ride_id": "cut", "zone": 3,',
        b"[1, 2]",
        b'{"ride_id": null, "zone": 1, "distance": 1.0}',
        b'{"zone": 1, "distance": 1.0}',
        b'{"ride_id": "text", "zone": "x", "distance": 1.0}',
        b"\xff\xfe",
    ]
    Path(good).write_bytes(b"\n".join([*lines[:2], *bad[:3], b"", *lines[2:], *bad[3:]]))
    summary = scored_now("minutes", good, "out.jsonl", chunk=3)
    assert (summary.written, summary.rejected) == (5, 6)
    rejects = {row["id"]: row for row in read("out.jsonl").rejects}
    assert set(rejects) == {"line 3", "line 4", "line 5", "line 10", "text", "line 12"}
    assert "truncated" in rejects["line 3"]["message"]
    assert rejects["line 3"]["row"] == '{"ride_id": "cut", "zone": 3,'
    assert "$.zone" in rejects["text"]["message"]


def test_an_invalid_row_of_a_csv_is_rejected(scored_now: ScoreNow) -> None:
    Path("rides.csv").write_bytes(
        b"ride_id,zone,distance\n"
        b"a,20,1.5\n"
        b"b,20\n"
        b"c,20,1.5,9\n"
        b'd,20,"1.5" x\n'
        b"\xff,20,1.5\n"
        b"e,twenty,1.5\n"
        b"f,20,1.5\n"
        b",20,1.5\n"
        b'g,20,"never closed\n'
    )
    summary = scored_now("minutes", "rides.csv", "out.csv", chunk=2)
    assert (summary.written, summary.rejected) == (2, 7)
    rejects = {row["id"]: row["message"] for row in read("out.csv").rejects}
    assert rejects["line 3"] == "2 fields under a header of 3"
    assert rejects["line 4"] == "4 fields under a header of 3"
    assert rejects["line 6"] == "not UTF-8"
    assert "$.zone" in rejects["e"]
    assert rejects["line 9"].startswith("the row has no id")
    assert set(rejects) == {"line 3", "line 4", "line 5", "line 6", "e", "line 9", "line 10"}


@pytest.mark.parametrize("header", [b"", b"a,a\n1,2\n", b"a,,c\n1,2,3\n", b"\xff,b\n1,2\n"])
def test_a_csv_without_a_header_is_refused(header: bytes, scored_now: ScoreNow) -> None:
    Path("rides.csv").write_bytes(header)
    with pytest.raises(SourceError, match="begins with a header"):
        scored_now("minutes", "rides.csv", "out.csv")


def test_a_table_of_something_else_is_no_target(scored_now: ScoreNow) -> None:
    write("rides.parquet", rides(3))
    write("sqlite:///out.db#rides", rides(3))
    with pytest.raises(TargetError, match="the table exists and has no column 'id'"):
        scored_now("minutes", "rides.parquet", "sqlite:///out.db#rides")
    assert len(read_rides("out.db")) == 3


def test_a_table_without_the_unique_key_is_no_target(scored_now: ScoreNow) -> None:
    write("rides.parquet", rides(3))
    columns = "id, minutes, zone, prediction_id, predictor, model, model_version"
    with sqlite3.connect("out.db") as connection:
        connection.execute(f"CREATE TABLE predictions ({columns})")
    connection.close()
    with pytest.raises(TargetError, match="no unique key over id, predictor, model_version"):
        scored_now("minutes", "rides.parquet", "sqlite:///out.db#predictions")


@pytest.mark.parametrize("target", ["out.parquet", "out.csv", "out.jsonl"])
def test_a_file_of_something_else_is_not_replaced(target: str, scored_now: ScoreNow) -> None:
    write(target, rides(3))
    before = Path(target).read_bytes()
    with pytest.raises(TargetError, match=r"holds no predictions: it has the columns ride_id"):
        scored_now("minutes", write("rides.parquet", rides(3)), target)
    assert Path(target).read_bytes() == before


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize(
    "source", ["out.jsonl", "out.jsonl.rejects.jsonl", "out.jsonl.eventml/rejects.jsonl"]
)
def test_a_run_that_would_replace_its_source_is_refused(
    source: str, linked: bool, scored_now: ScoreNow
) -> None:
    path = Path(source)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fields = {"prediction_id", "predictor", "model", "model_version", *RejectedRow.__struct_fields__}
    path.write_text(json.dumps(rides(1)[0] | dict.fromkeys(sorted(fields), "")))
    before = path.read_bytes()
    if linked:
        source = "rides.jsonl"
        Path(source).symlink_to(path)
    with pytest.raises(TargetError, match=f"{path}: the run would write into its own source"):
        scored_now("minutes", source, "out.jsonl")
    assert path.read_bytes() == before


@pytest.mark.parametrize("rejected", [True, False])
def test_a_rejects_file_of_something_else_is_not_replaced(rejected: bool, scored_now: ScoreNow) -> None:
    rows = rides(3)
    rows[0]["zone"] = 13 if rejected else 20
    source = write("rides.parquet", rows)
    path = Path("out.csv.rejects.jsonl")
    write(str(path), rides(1))
    before = path.read_bytes()
    with pytest.raises(TargetError, match=r"out\.csv\.rejects\.jsonl: the file exists and holds no rejects"):
        scored_now("minutes", source, "out.csv")
    assert path.read_bytes() == before
    path.write_bytes(b"")
    for _ in range(2):  # over an empty one, and over those of the run before
        assert scored_now("minutes", source, "out.csv").rejected == rejected
    assert path.exists() is rejected


@pytest.mark.parametrize("which", ["rides", "out"])
def test_a_locked_database_is_an_error_that_names_the_timeout(which: str, scored_now: ScoreNow) -> None:
    source = "sqlite:///rides.db?timeout=0.1#rides"
    write("sqlite:///rides.db#rides", rides(3))
    error = SourceError if which == "rides" else TargetError
    with (
        locked(Path(f"{which}.db")),
        pytest.raises(error, match=r"locked\. Another process holds the database"),
    ):
        scored_now("minutes", source, "sqlite:///out.db?timeout=0.1#predictions")
    assert (scored_now("minutes", source, "sqlite:///out.db#predictions")).written == 3


def test_more_rejects_than_allowed_end_the_run(scored_now: ScoreNow) -> None:
    rows = rides(100)
    for row in rows[20:60]:
        row["zone"] = 13
    write("rides.parquet", rows)
    with pytest.raises(
        JobError, match=r"40 rows of 64 were rejected, and --max-rejects allows 9; .*ValueError"
    ):
        scored_now("minutes", "rides.parquet", "out.parquet", chunk=64, max_rejects=9)
    assert not Path("out.parquet").exists()
    summary = scored_now("minutes", "rides.parquet", "out.parquet", chunk=64)
    assert (summary.resumed, summary.written, summary.rejected) == (64, 60, 40)


def test_a_second_run_on_the_same_file_is_refused(scored_now: ScoreNow) -> None:
    import fcntl  # noqa: PLC0415 - Windows has none

    write("rides.parquet", rides(3))
    Path("out.parquet.eventml").mkdir(mode=0o700)
    with Path("out.parquet.eventml/lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TargetError, match="another run is writing it"):
            scored_now("minutes", "rides.parquet", "out.parquet")
    assert (scored_now("minutes", "rides.parquet", "out.parquet")).written == 3


@pytest.mark.parametrize("target", ["out.parquet", "out.csv", "out.jsonl", "sqlite:///out.db#predictions"])
def test_a_full_disk_ends_the_run_and_the_next_one_resumes(target: str) -> None:
    """The disk is simulated by a limit of 100 kB for each file of the process."""
    write("rides.jsonl", rides(20_000))
    command = [
        sys.executable,
        "-m",
        "eventml",
        "score",
        "scored_app:minutes",
        "--from",
        "rides.jsonl",
        "--chunk",
        "500",
    ]
    cut = subprocess.run(  # noqa: S603 - our own command
        [*command, "--to", target, "--checkpoint", "0.01"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert cut.returncode == 1, cut.stderr
    assert "Traceback" not in cut.stderr
    assert "out." in cut.stderr
    assert "written" in cut.stderr
    if "://" not in target:
        assert not Path(target).exists()
    whole = subprocess.run([*command, "--to", target], capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    assert whole.returncode == 0, whole.stderr
    assert read(target).ids == [row["ride_id"] for row in rides(20_000)]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_read_permission_is_refused(scored_now: ScoreNow) -> None:
    Path(write("rides.parquet", rides(3))).chmod(0)
    with pytest.raises(SourceError, match="Permission denied"):
        scored_now("minutes", "rides.parquet", "out.parquet")


def test_a_folder_is_no_source(scored_now: ScoreNow) -> None:
    Path("rides.parquet").mkdir()
    with pytest.raises(SourceError, match="there is no Parquet file in this folder"):
        scored_now("minutes", "rides.parquet", "out.parquet")


def test_a_pipe_is_no_source(scored_now: ScoreNow) -> None:
    os.mkfifo("rides.jsonl")
    descriptor = os.open("rides.jsonl", os.O_RDWR)
    try:
        with pytest.raises(SourceError, match="no regular file"):
            scored_now("minutes", "rides.jsonl", "out.parquet")
    finally:
        os.close(descriptor)


def read_rides(path: str) -> list[object]:
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT * FROM rides").fetchall()
    connection.close()
    return found
