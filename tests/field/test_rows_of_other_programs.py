"""A table from another program was not scored as it is: long cells, blanks, names, comments were faults."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from eventml.cli.app import app
from eventml.cli.publish import read_csv, read_json_lines
from eventml.deploy.batch import TextLines, csv_reader
from eventml.deploy.batch.output_columns import schema_of_outputs, schema_of_type
from eventml.errors import JobRunningError, OutputError, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.testing import Result

APP = """
import os, pathlib, time
import msgspec
from eventml import Bus

bus = Bus("notes")

class Note(msgspec.Struct):
    id: int
    text: str
    weight: float | None = None

class Echo(msgspec.Struct):
    text: str
    weight: float | None

class Clash(msgspec.Struct):
    weight: float
    Weight: float

class Named(msgspec.Struct):
    Model: str
    ID: int

@bus.predictor("notes", to="echoes", event_type=Note)
def echo(notes: list[Note]) -> list[Echo]:
    while os.environ.get("SLOW"):
        pathlib.Path("slow").touch()
        time.sleep(0.02)
    return [Echo(one.text, one.weight) for one in notes]

@bus.predictor("notes", to="clashes", event_type=Note)
def clash(notes: list[Note]) -> list[Clash]: ...

@bus.predictor("notes", to="named", event_type=Note)
def named(notes: list[Note]) -> list[Named]:
    return [Named(one.text, one.id) for one in notes]

@bus.predictor("notes", to="long", event_type=Note)
def long(notes: list[Note]) -> list[dict]:
    return [{"x" * 70: 1.0} for one in notes]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "notes_app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("notes_app", None)


def score(predictor: str, source: str, target: str, *options: str) -> Result:
    job = [f"notes_app:{predictor}", "--id", "id", "--from", source, "--to", target, *options]
    return CliRunner().invoke(app, ["score", *job], catch_exceptions=False)


def rows_of(path: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in Path(path).read_bytes().splitlines()]


def write_csv(*rows: tuple[object, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([("id", "text", "weight"), *rows])
    Path("notes.csv").write_bytes(text.getvalue().encode())
    return text.getvalue().encode()


def published(data: bytes) -> list[Any]:
    return list(read_csv(TextLines(io.BytesIO(data), "notes.csv"), "notes.csv", ["text"]))


TEXTS = ["x" * 200_000, "a line\r\n" * 50_000, 'a "quoted"\n, one' * 20_000, "é\r\nÀ", " blank "]


def test_long_cells_and_line_ends_in_them_are_read_as_they_are() -> None:
    data = write_csv(*((number, text, 1) for number, text in enumerate(TEXTS)))
    assert score("echo", "notes.csv", "out.jsonl").exit_code == 0
    assert [row["text"] for row in rows_of("out.jsonl")] == TEXTS
    assert [row.event["text"] for row in published(data)] == TEXTS


def test_a_csv_is_written_and_read_with_its_line_ends() -> None:
    write_csv(*((number, text, 1) for number, text in enumerate(TEXTS)))
    assert score("echo", "notes.csv", "out.csv").exit_code == 0
    assert score("echo", "out.csv", "again.jsonl").exit_code == 0
    assert [row["text"] for row in rows_of("again.jsonl")] == TEXTS


def test_a_row_of_many_lines_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A quote that is open at each line's end makes one row of a whole file."""
    monkeypatch.setattr(csv_reader, "MAX_LINE_BYTES", 1_000)
    lines = ['"ab', *['","ab'] * 500, '"', "r-1,1.5", "r-2,2.5"]
    path = tmp_path / "rides.csv"
    path.write_text("\n".join(["ride_id,distance", *lines]) + "\n")
    with path.open("rb") as stream:
        reader = csv_reader.CsvReader(csv_reader.TextLines(stream, "rides.csv"), "rides.csv")
        first, *others = list(reader.rows())
    assert isinstance(first, csv_reader.BadRow)
    assert "the row is longer than" in first.reason
    assert others == [["r-1", "1.5"], ["r-2", "2.5"]]


def test_the_lines_of_a_cell_that_is_too_long_are_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventml.deploy.batch.csv_reader.MAX_LINE_BYTES", 1_000)
    before = csv.field_size_limit(1_000)
    try:
        write_csv((1, '666,"forged",1\r\n' * 200, 1), (2, "next", 1), (3, 'a"b\n' * 300, 1), (4, "last", 1))
        assert score("echo", "notes.csv", "out.jsonl").exit_code == 3
    finally:
        csv.field_size_limit(before)
    assert [row["id"] for row in rows_of("out.jsonl")] == ["2", "4"]
    assert [row["id"] for row in rows_of("out.jsonl.rejects.jsonl")] == ["line 2", "line 204"]


@pytest.mark.parametrize("cell", [" 1.5 ", "\t1.5", "1.5\u00a0", "1.5"])
def test_blanks_around_a_number_are_ignored_by_score_as_by_publish(cell: str) -> None:
    data = write_csv((1, " 1.5 ", cell), (2, "7", " "), (3, "8", "1,5"))
    assert [row.event["weight"] for row in published(data)] == [1.5, None, "1,5"]
    assert score("echo", "notes.csv", "out.jsonl").exit_code == 3
    assert [(row["text"], row["weight"]) for row in rows_of("out.jsonl")] == [(" 1.5 ", 1.5), ("7", None)]
    assert [row["id"] for row in rows_of("out.jsonl.rejects.jsonl")] == ["3"]


def test_json_lines_with_a_byte_order_mark_and_windows_line_ends() -> None:
    data = b'\xef\xbb\xbf{"id":1,"text":"a\\r\\nb"}\r\n\r\n{"id":2,"text":"c"}\r\n'
    Path("notes.jsonl").write_bytes(data)
    assert score("echo", "notes.jsonl", "out.jsonl").exit_code == 0
    assert [row["text"] for row in rows_of("out.jsonl")] == ["a\r\nb", "c"]
    lines: list[Any] = list(read_json_lines(TextLines(io.BytesIO(data), "notes.jsonl")))
    assert [(row.line, row.event["text"]) for row in lines] == [(1, "a\r\nb"), (3, "c")]


@pytest.mark.parametrize("target", ["sqlite:///out.db#t", "out.csv", "out.parquet", "out.jsonl"])
def test_names_that_differ_in_their_case_only(target: str) -> None:
    write_csv((1, "one", 1))
    assert score("named", "notes.csv", target).exit_code == 0
    if target == "out.jsonl":
        assert {"output_Model": "one", "output_ID": 1, "id": "1"}.items() <= rows_of(target)[0].items()
    refused = score("clash", "notes.csv", target)
    assert refused.exit_code == 1
    assert "'weight' and 'Weight' would be columns of one name" in refused.stderr


def test_a_field_whose_new_name_is_taken() -> None:
    taken = msgspec.defstruct("Taken", [("model", str), ("output_model", str)])
    reason = "'model' and 'output_model' would be columns of one name"
    with pytest.raises(OutputError, match=reason):
        schema_of_type(taken)
    with pytest.raises(OutputError, match=reason):
        schema_of_outputs([{"model": "", "output_model": ""}])


QUERIES = [
    "SELECT id, text FROM notes -- all of them",
    "SELECT id, text FROM notes;",
    "SELECT id, text FROM notes; -- all of them\n;\n",
    "SELECT id, text FROM notes /* all; */ -- :name %",
    "SELECT id, text FROM notes WHERE text LIKE '%:x%' AND id % 2 < 2 AND text <> '\\:x'",
    "SELECT id, text || '; -- x' AS text FROM notes",
    "WITH part AS (SELECT * FROM notes) SELECT * FROM part -- it's all",
]


def fill(url: str) -> None:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS notes")
        connection.exec_driver_sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        connection.exec_driver_sql("INSERT INTO notes VALUES (1, 'a:x'), (2, 'b:x')")
    engine.dispose()


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_with_comments_semicolons_and_signs(query: str) -> None:
    fill("sqlite:///notes.db")
    result = score("echo", "sqlite:///notes.db", "out.jsonl", "--query", query)
    assert result.exit_code == 0, result.output
    assert [row["text"][:3] for row in rows_of("out.jsonl")] == ["a:x", "b:x"]


def test_the_same_queries_on_postgresql(postgres_url: str) -> None:
    fill(postgres_url)
    for query in [*QUERIES, "SELECT id::int, text::text FROM notes -- end"]:
        result = score("echo", postgres_url, "out.jsonl", "--query", query)
        assert result.exit_code == 0, result.output
        assert [row["text"][:3] for row in rows_of("out.jsonl")] == ["a:x", "b:x"]


def test_names_that_postgresql_would_cut(postgres_url: str) -> None:
    write_csv((1, "one", 1))
    for predictor, table in (("long", "short"), ("echo", "t" * 60), ("echo", "é" * 30)):
        refused = score(predictor, "notes.csv", f"{postgres_url}#{table}")
        assert refused.exit_code == 1
        assert "is longer than the 63 bytes of a name" in refused.stderr
    engine = sa.create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    assert not [name for name in sa.inspect(engine).get_table_names() if name.startswith(("t", "é"))]
    engine.dispose()


def test_a_second_run_of_a_job_has_a_status_of_its_own() -> None:
    write_csv((1, "one", 1))
    job = [sys.executable, "-m", "eventml", "score", "notes_app:echo", "--id", "id", "--from", "notes.csv"]
    with subprocess.Popen([*job, "--to", "out.csv"], env={**os.environ, "SLOW": "1"}) as first:  # noqa: S603
        try:
            deadline = time.monotonic() + 60
            while not Path("slow").exists():
                assert first.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            second = score("echo", "notes.csv", "out.csv")
        finally:
            first.kill()
    assert second.exit_code == 75
    assert f"another run is writing it (process {first.pid}, since 20" in second.stderr
    assert score("echo", "notes.csv", "out.csv").exit_code == 0  # the half-done job of the first
    assert issubclass(JobRunningError, TargetError)
