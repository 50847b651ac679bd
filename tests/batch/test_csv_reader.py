"""Reading CSV: no value is lost, and a row that cannot be read costs only itself."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.batch import csv_reader
from eventml.deploy.batch.csv_reader import BadRow, CsvReader, TextLines, value_of_cell
from eventml.errors import SourceError

CELLS = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.lists(CELLS.filter(bool), min_size=1, max_size=4, unique=True)


class Pieces(io.BufferedIOBase):
    """A pipe whose reads return these pieces one by one, and then its end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    def read1(self, _size: int = -1, /) -> bytes:
        return next(self._pieces, b"")


def pieces_of(*alphabet: bytes) -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.lists(st.sampled_from(alphabet), min_size=1).map(b"".join))


def lines_of(*pieces: bytes) -> TextLines:
    return TextLines(Pieces(list(pieces)), "rides.csv")


def rows_of(data: bytes) -> list[tuple[int, list[str]] | BadRow]:
    reader = CsvReader(lines_of(data), "rides.csv")
    return [row if isinstance(row, BadRow) else (reader.line, row) for row in reader.rows()]


@given(pieces_of(b"a", b"\r", b"\n", b"\n\n"))
def test_lines_do_not_depend_on_how_the_stream_is_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    expected = whole.removesuffix(b"\n").split(b"\n") if whole else []
    lines = lines_of(*pieces)
    assert list(lines) == expected
    assert lines.number == len(expected)
    assert lines.bytes_read == lines.offset == len(whole)


@given(pieces_of(b"a", b"\n"))
def test_lines_are_read_on_from_every_offset(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    lines = lines_of(*pieces)
    for _ in lines:
        rest = TextLines(
            io.BytesIO(whole[lines.offset :]), "rides.csv", offset=lines.offset, number=lines.number
        )
        assert list(rest) == list(lines_of(*pieces))[lines.number :]
        assert rest.offset == len(whole)


@given(pieces_of(b"a", b"\n"))
def test_peek_takes_no_line(pieces: list[bytes]) -> None:
    lines = lines_of(*pieces)
    while (first := lines.peek()) is not None:
        before = lines.number
        assert next(lines) == first
        assert lines.number == before + 1
    assert list(lines) == []


def test_a_line_is_available_only_if_it_is_complete() -> None:
    lines = lines_of(b"one\ntwo\nthr", b"ee\n")
    assert not lines.available
    assert next(lines) == b"one"
    assert lines.available
    assert next(lines) == b"two"
    assert not lines.available  # the rest of the third may take forever
    assert next(lines) == b"three"


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_reader, "MAX_LINE_BYTES", 100)
    zeros = Pieces([b"{}\n", *[b"\0" * 64] * 1_000])
    lines = TextLines(zeros, "rides.csv")
    assert next(lines) == b"{}"
    with pytest.raises(SourceError, match=r"rides\.csv: line 2 is longer"):
        next(lines)
    assert zeros.read1(1)  # it has not read to the end


@pytest.mark.parametrize(
    ("cell", "value"),
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
        ("true", True),
        ("True", True),
        (" FALSE ", False),
        ("yes", "yes"),
        ("NO", "NO"),
        ("t", "t"),
        (" as it is ", " as it is "),
        ("2019-01-15 03:36:12", "2019-01-15 03:36:12"),
    ],
)
def test_the_value_of_a_cell_without_a_type(cell: str, value: object) -> None:
    found = value_of_cell(cell)
    assert found == value
    assert type(found) is type(value)


@given(st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_as_they_were_written(number: float) -> None:
    found = value_of_cell(json.dumps(number))
    assert found == number
    assert type(found) is type(number)


@given(CELLS)
def test_the_value_of_any_cell_fits_into_json(cell: str) -> None:
    found = value_of_cell(cell)
    assert isinstance(found, str | int | float | None)
    assert not isinstance(found, float) or math.isfinite(found)
    assert not isinstance(found, str) or found == cell


@given(NAMES.flatmap(lambda names: st.tuples(st.just(names), st.lists(st.tuples(*[CELLS] * len(names))))))
def test_cells_are_read_as_they_were_written(table: tuple[list[str], list[tuple[str, ...]]]) -> None:
    header, rows = table
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    reader = CsvReader(lines_of(out.getvalue().encode()), "rides.csv")
    assert reader.columns == header
    found = [tuple(row) for row in reader.rows() if not isinstance(row, BadRow)]
    assert found == rows


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_reasons(data: bytes) -> None:
    try:
        rows = rows_of(data)
    except SourceError:
        return  # the header cannot be used
    assert all(row.reason for row in rows if isinstance(row, BadRow))
    lines = [row[0] for row in rows]
    assert lines == sorted(set(lines))


def test_a_bad_row_costs_only_itself() -> None:
    data = b'a,b\r\n1,2\r\n3\r\n"4"x,5\r\n\r\n\xff,6\r\n"two\r\nlines",7\r\n8,9,10\r\n11,12\r\n'
    found = rows_of(data)
    assert [row for row in found if not isinstance(row, BadRow)] == [
        (2, ["1", "2"]),
        (7, ["two\r\nlines", "7"]),
        (10, ["11", "12"]),
    ]
    assert [(row.line, row.reason) for row in found if isinstance(row, BadRow)] == [
        (3, "1 fields under a header of 2"),
        (4, "',' expected after '\"'"),
        (6, "not UTF-8"),
        (9, "3 fields under a header of 2"),
    ]


def test_a_quote_that_is_never_closed_is_reported_with_all_its_lines() -> None:
    [good, bad] = rows_of(b'a\n1\n"2\n3\n')
    assert good == (2, ["1"])
    assert isinstance(bad, BadRow)
    assert bad.line == 3
    assert "up to line 4" in bad.reason


def test_a_byte_order_mark_is_no_part_of_the_first_column() -> None:
    assert CsvReader(lines_of(b"\xef\xbb", b"\xbfa,b\n1,2\n"), "rides.csv").columns == ["a", "b"]


def test_an_empty_file_has_no_columns_and_no_rows() -> None:
    reader = CsvReader(lines_of(), "rides.csv")
    assert reader.columns == []
    assert list(reader.rows()) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a,,c\n1,2,3\n", "a column without a name"),
        (b"a,a\n1,2\n", "two columns of one name"),
        (b"\xff,a\n", "not UTF-8"),
        (b'"a"b\n', "expected after"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(SourceError, match=rf"rides\.csv: line 1: .*{reason}.*begins with a header"):
        CsvReader(lines_of(data), "rides.csv")


def test_the_index_that_pandas_writes_is_no_column() -> None:
    lines = lines_of(b",a,b\n0,1,x\n1,2\n")
    reader = CsvReader(lines, "rides.csv")
    assert (reader.columns, reader.header) == (["a", "b"], ["", "a", "b"])
    assert list(reader.rows()) == [["1", "x"], BadRow(3, "2 fields under a header of 3", ["1", "2"])]
    later = CsvReader(lines_of(b"2,3,y\n"), "rides.csv", reader.header)
    assert list(later.rows()) == [["3", "y"]]
