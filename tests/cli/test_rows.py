"""CSV and JSON lines to events: nothing is lost in between, and a bad row stands alone."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.cli.reporting import Refusal
from eventml.cli.rows import Bad, Format, Row, convert, format_of, read_rows
from eventml.deploy.batch import TextLines

CELLS = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.lists(CELLS.filter(bool), min_size=1, max_size=4, unique=True)


def rows_of(
    data: bytes, form: Format, *, text: tuple[str, ...] = (), needed: tuple[str, ...] = ()
) -> list[Row | Bad]:
    return list(read_rows(TextLines(io.BytesIO(data)), form, text=text, needed=needed))


def events_of(data: bytes, form: Format) -> list[object]:
    rows = rows_of(data, form)
    assert not [row for row in rows if isinstance(row, Bad)]
    return [row.event for row in rows if isinstance(row, Row)]


def written(header: list[str], rows: list[list[str]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerows([header, *rows])
    return out.getvalue().encode()


@pytest.mark.parametrize(
    ("cell", "meaning"),
    [
        ("", None),
        ("  ", None),
        ("7", 7),
        (" 7", 7),
        ("-7", -7),
        ("2.50", 2.5),
        ("1e-05", 1e-05),
        ("18446744073709551615", 18446744073709551615),
        ("18446744073709551616", "18446744073709551616"),
        ("-9223372036854775809", "-9223372036854775809"),
        ("9" * 5_000, "9" * 5_000),
        ("1e999", "1e999"),
        ("007", "007"),
        ("+1", "+1"),
        ("1,5", "1,5"),
        (".5", ".5"),
        ("1_000", "1_000"),
        ("٣", "٣"),
        ("nan", "nan"),
        ("Infinity", "Infinity"),
        ("true", "true"),
        (" as it is ", " as it is "),
        ("2019-01-15 03:36:12", "2019-01-15 03:36:12"),
    ],
)
def test_what_a_cell_means(cell: str, meaning: object) -> None:
    found = convert(cell)
    assert found == meaning
    assert type(found) is type(meaning)


@given(st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_back_as_they_were(number: float) -> None:
    found = convert(json.dumps(number))
    assert found == number
    assert type(found) is type(number)


@given(CELLS)
def test_a_cell_is_always_something_json_can_hold(cell: str) -> None:
    found = convert(cell)
    assert isinstance(found, str | int | float | None)
    assert not isinstance(found, float) or math.isfinite(found)
    assert not isinstance(found, str) or found == cell


@given(NAMES.flatmap(lambda names: st.tuples(st.just(names), st.lists(st.tuples(*[CELLS] * len(names))))))
def test_text_columns_come_back_whatever_is_in_them(table: tuple[list[str], list[tuple[str, ...]]]) -> None:
    header, rows = table
    data = written(header, [list(row) for row in rows])
    found = [row for row in rows_of(data, "csv", text=tuple(header)) if isinstance(row, Row)]
    assert [row.event for row in found] == [dict(zip(header, row, strict=True)) for row in rows]


@given(st.lists(st.recursive(st.none() | st.booleans() | st.integers() | CELLS, st.lists)))
def test_json_lines_come_back(events: list[object]) -> None:
    assert events_of("".join(json.dumps(event) + "\n" for event in events).encode(), "jsonl") == events


@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl"]))
def test_any_bytes_are_rows_or_reasons(data: bytes, form: Format) -> None:
    try:
        rows = rows_of(data, form)
    except Refusal:
        assert form == "csv"  # whose header can be unusable
        return
    assert all(isinstance(row, Row) or row.reason for row in rows)
    assert [row.line for row in rows] == sorted({row.line for row in rows})


def test_a_bad_json_line_stands_alone() -> None:
    found = rows_of(b'{"n": 1}\n\nnonsense\n{"n": 2}\n"\xff"\n' + b"[" * 10_000 + b'\n{"n": 3}', "jsonl")
    assert [row.event for row in found if isinstance(row, Row)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert [row.line for row in found if isinstance(row, Bad)] == [3, 5, 6]


def test_a_bad_csv_row_stands_alone() -> None:
    data = b'a,b\r\n1,2\r\n3\r\n"4"x,5\r\n\r\n\xff,6\r\n"two\r\nlines",7\r\n8,9,10\r\n11,12\r\n'
    found = rows_of(data, "csv")
    assert [row.event for row in found if isinstance(row, Row)] == [
        {"a": 1, "b": 2},
        {"a": "two\r\nlines", "b": 7},
        {"a": 11, "b": 12},
    ]
    assert [(row.line, row.reason) for row in found if isinstance(row, Bad)] == [
        (3, "1 fields under a header of 2"),
        (4, "',' expected after '\"'"),
        (6, "not UTF-8"),
        (9, "3 fields under a header of 2"),
    ]


def test_a_quote_that_is_never_closed_ends_with_the_file_and_says_how_far_it_went() -> None:
    [good, bad] = rows_of(b'a\n1\n"2\n3\n', "csv")
    assert isinstance(good, Row)
    assert isinstance(bad, Bad)
    assert bad.line == 3
    assert "up to line 4" in bad.reason


def test_a_byte_order_mark_is_no_part_of_the_first_column() -> None:
    assert events_of(b"\xef\xbb\xbfa,b\n1,2\n", "csv") == [{"a": 1, "b": 2}]
    assert events_of(b"\xef\xbb\xbf{}\n", "jsonl") == [{}]


def test_text_is_left_alone_where_one_asks_for_it() -> None:
    assert rows_of(b"id,n\n0012,0012\n7,7\n,\n", "csv", text=("id",)) == [
        Row(2, {"id": "0012", "n": "0012"}),
        Row(3, {"id": "7", "n": 7}),
        Row(4, {"id": "", "n": None}),
    ]


def test_a_row_without_what_its_key_is_taken_from_is_bad() -> None:
    found = rows_of(b'{"k": "a"}\n{"k": null}\n{}\n[]\n{"k": true}\n{"k": 7}\n', "jsonl", needed=("k",))
    assert [row.line for row in found if isinstance(row, Row)] == [1, 6]
    assert all("'k'" in row.reason for row in found if isinstance(row, Bad))


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"a,,b\n1,2,3\n", "names each column"), (b"a,a\n1,2\n", "no two alike"), (b"\xff,a\n", "not UTF-8")],
)
def test_a_header_that_does_not_name_the_columns_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Refusal, match=reason):
        rows_of(data, "csv")


def test_a_text_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refusal, match="no column is named 'c'; there are: a, b"):
        rows_of(b"a,b\n1,2\n", "csv", text=("c",))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_nothing_makes_no_events(form: Format) -> None:
    assert events_of(b"", form) == []


@pytest.mark.parametrize(
    ("suffix", "data", "form"),
    [
        (".csv", b"{}", "csv"),
        (".CSV", b"{}", "csv"),
        (".jsonl", b"a,b", "jsonl"),
        (".ndjson", b"a,b", "jsonl"),
        ("", b' {"a": 1}\n', "jsonl"),
        ("", b"\xef\xbb\xbf[1]\n", "jsonl"),
        (".txt", b"a,b\n", "csv"),
        ("", b"", "csv"),
    ],
)
def test_the_format_is_told_by_the_suffix_or_else_by_the_first_line(
    suffix: str, data: bytes, form: Format
) -> None:
    lines = TextLines(io.BytesIO(data))
    assert format_of(suffix, lines) == form
    assert b"".join(lines) == data.removesuffix(b"\n")
