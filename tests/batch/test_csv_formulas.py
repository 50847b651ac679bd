"""Texts that a spreadsheet would run: CSV targets hold them as text, and they are read back unchanged."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml import Bus
from eventml.deploy.batch import CsvReader, ScorePlan, TextLines, parse_location, score
from eventml.deploy.batch.csv_reader import is_formula
from eventml.deploy.batch.file_target import escape_formulas
from eventml.deploy.batch.output_columns import PREDICTION_COLUMNS
from tests.batch.conftest import read, write

if TYPE_CHECKING:
    from typing import Any

FORMULAS = [
    "=1+1",
    '=HYPERLINK("http://127.0.0.1/?"&A1,"click")',
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "\t=1+1",
    "\r=1+1",
    " =1+1",
    "'=1+1",
    "\n=1+1",
    "\uff1d1+1",
    "-NxT3_key",
]
NUMBERS = ["-5", "+1.5", "-1e3", "-0.", "1"]
TEXTS = ["", "a=b", "it's", "'", "'quoted'", "1-2", "x\t=1"]


class Row(msgspec.Struct):
    id: str
    text: str
    number: float


class Output(msgspec.Struct):
    text: str
    number: float
    maybe: str | None


bus = Bus("cells")
bus.topic("rows", event_type=Row, id_field="id")


@bus.predictor("rows", to="cells")
def echo(rows: list[Row]) -> list[Output]:
    return [Output(row.text, row.number, None) for row in rows]


@bus.predictor("rows", to="keys")
def keys(rows: list[Row]) -> list[dict[str, float]]:
    return [{"=1+1": row.number} for row in rows]


async def scored(predictor: str, source: str, target: str, **plan: Any) -> None:
    await score(
        bus,
        ScorePlan(
            predictor=predictor,
            source=parse_location(source, option="--from"),
            target=parse_location(target, option="--to"),
            **plan,
        ),
    )


def cells_of(path: str) -> list[dict[str, str]]:
    """The cells as any other program reads them."""
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.anyio
async def test_a_csv_has_no_cell_that_a_spreadsheet_runs(caplog: pytest.LogCaptureFixture) -> None:
    texts = [*FORMULAS, *NUMBERS, *TEXTS]
    rows = [{"id": f"{text}{n}", "text": text, "number": -1.5} for n, text in enumerate(texts)]
    write("rows.parquet", rows)
    await scored("echo", "rows.parquet", "out.csv")
    found = cells_of("out.csv")
    assert [row["text"] for row in found] == [*(f"'{text}" for text in FORMULAS), *NUMBERS, *TEXTS]
    assert not [cell for row in found for cell in row.values() if is_formula(cell) and cell[0] != "'"]
    assert {row["number"] for row in found} == {"-1.5"}
    assert "--csv-formulas" in caplog.text
    # Read by a job, as the source: the same ids and texts.
    await scored("echo", "out.csv", "again.jsonl")
    assert [(row["id"], row["text"]) for row in read("again.jsonl").rows if row["text"]] == [
        (row["id"], row["text"]) for row in rows if row["text"]
    ]


@pytest.mark.anyio
async def test_a_setting_keeps_the_cells_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    write("rows.parquet", [{"id": str(n), "text": text, "number": 1.0} for n, text in enumerate(FORMULAS)])
    await scored("echo", "rows.parquet", "out.csv", csv_formulas=True)
    assert [row["text"] for row in cells_of("out.csv")] == FORMULAS
    assert not caplog.text


@pytest.mark.anyio
async def test_nothing_is_said_of_a_csv_without_formulas(caplog: pytest.LogCaptureFixture) -> None:
    write("rows.parquet", [{"id": str(n), "text": text, "number": -1.0} for n, text in enumerate(NUMBERS)])
    await scored("echo", "rows.parquet", "out.csv")
    assert [row["text"] for row in cells_of("out.csv")] == NUMBERS
    assert not caplog.text


@pytest.mark.anyio
async def test_the_name_of_a_column_is_no_formula_either() -> None:
    write("rows.parquet", [{"id": "a", "text": "", "number": 1.0}])
    await scored("keys", "rows.parquet", "out.csv")
    assert "'=1+1" in cells_of("out.csv")[0]
    assert "=1+1" in columns_of("out.csv")


def columns_of(path: str) -> list[str]:
    with Path(path).open("rb") as stream:
        return CsvReader(TextLines(stream, path), path).columns


def test_other_csv_files_are_read_as_they_are() -> None:
    data = b"id,text\n1,'=1+1\n"
    assert list(CsvReader(TextLines(io.BytesIO(data), "x"), "x").rows()) == [["1", "'=1+1"]]


starts = st.text("'=+-@ \t\r\n\x0001.e\uff1dx", max_size=6)


@given(st.lists(st.one_of(starts, st.text(max_size=5)), max_size=5))
def test_an_escaped_text_is_no_formula_and_is_read_back(texts: list[str]) -> None:
    escaped = escape_formulas(pa.array(texts, pa.string())).to_pylist()
    for text, cell in zip(texts, escaped, strict=True):
        assert cell == (f"'{text}" if is_formula(text) else text)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow([*PREDICTION_COLUMNS, *map(str, range(len(texts)))])
    writer.writerow([*["x"] * len(PREDICTION_COLUMNS), *escaped])
    lines = TextLines(io.BytesIO(stream.getvalue().encode()), "x")
    [row] = CsvReader(lines, "x").rows()
    assert isinstance(row, list)
    assert row[len(PREDICTION_COLUMNS) :] == texts
