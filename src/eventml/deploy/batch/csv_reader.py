"""Reading CSV: lines, rows and the values of cells, for `eventml publish` and `eventml score` alike.

Python's `csv` module parses. A row that cannot be read is reported with its line number, and the rows
after it are read on.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from datetime import date, datetime
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

import msgspec

from eventml.deploy.batch.output_columns import PREDICTION_COLUMNS, column_kind
from eventml.errors import SourceError

if TYPE_CHECKING:
    from io import BufferedIOBase

MAX_LINE_BYTES: Final = 16 << 20
"""The longest line, in bytes. A binary file without line ends is refused before it fills the memory.

It is also the longest cell, in characters, and the longest row, whose texts may have several lines.
"""

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

FORMULA: Final = "[\\x00-\\x20']*[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]"
"""How a text begins that a spreadsheet may run, unless it is a `NUMBER`: a regular expression.

The last four characters are the wide forms of =, +, - and @. Apostrophes may come first, so that a formula
with one more is a formula too: the first apostrophe of a formula in a file is always one that was put there.
"""

NUMBER: Final = r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?"

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_BOOLS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0", "0.0"), False),
}

_BLOCK_BYTES: Final = 1 << 20
_decode_number: Final = msgspec.json.Decoder(int | float).decode


class TextLines:
    """An iterator over the lines of a file or a pipe, without line feeds and the byte order mark.

    It holds at most the lines of one read in memory.

    Args:
        stream: A buffered binary stream, positioned at `offset`.
        name: Name of the file, for messages.
        offset: Bytes before the first line to read.
        number: Number of the line that ends at `offset`.

    Attributes:
        offset: Bytes up to the end of the line that was returned last.
        number: Number of the line that was returned last, from 1.
        bytes_read: Bytes that were read from the stream, `offset` at the start included.
    """

    def __init__(self, stream: BufferedIOBase, name: str, *, offset: int = 0, number: int = 0) -> None:
        self._stream = stream
        self._name = name
        self._complete: deque[bytes] = deque()
        self._incomplete = b""
        self._at_end = False
        self.offset = self.bytes_read = offset
        self.number = number

    @property
    def available(self) -> bool:
        """Whether the next line is in memory, so that taking it does not wait."""
        return bool(self._complete)

    def peek(self) -> bytes | None:
        """Return the next line without taking it; None at the end."""
        while not self._complete and not self._at_end:
            self._read()
        return self._complete[0] if self._complete else None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._complete and self.peek() is None:
            raise StopIteration
        line = self._complete.popleft()
        self.number += 1
        self.offset = min(self.offset + len(line) + 1, self.bytes_read)  # the last line may have no end
        return line.removeprefix(BYTE_ORDER_MARK) if self.number == 1 else line

    def _read(self) -> None:
        block = self._stream.read1(_BLOCK_BYTES)
        self.bytes_read += len(block)
        self._at_end = not block
        *complete, self._incomplete = (self._incomplete + block).split(b"\n")
        self._complete += complete
        if self._at_end and self._incomplete:
            self._complete.append(self._incomplete)
            self._incomplete = b""
        if len(self._incomplete) > MAX_LINE_BYTES:
            number = self.number + len(self._complete) + 1
            raise SourceError(
                f"{self._name}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB: this is neither CSV "
                "nor JSON lines"
            )


class BadRow(NamedTuple):
    """A row that cannot be read.

    Attributes:
        line: Number of its first line.
        reason: Why it cannot be read.
        cells: Its cells, as far as they are known.
    """

    line: int
    reason: str
    cells: list[str]


class CsvReader:
    """Reads CSV in UTF-8, with commas and a header. Blank lines are skipped.

    A first column without a name, such as the index in what pandas writes, is left out.
    In a file of predictions the apostrophe that `FileTarget` puts before a formula is removed.

    Args:
        lines: The lines to read.
        name: Name of the file, for messages.
        header: The header's cells where `lines` begins behind the header; None reads them.

    Attributes:
        header: The header's cells; empty if there is no line at all.
        columns: The columns' names.
        line: Number of the first line of the row that was returned last.

    Raises:
        SourceError: The header cannot be used.
    """

    def __init__(self, lines: TextLines, name: str, header: list[str] | None = None) -> None:
        self._lines = lines
        self._quotes = self._size = 0  # quotes and bytes in the lines of the row that is read
        # The limit is the process's: it is only raised, so that no other reader of CSV gets a lower one.
        csv.field_size_limit(max(MAX_LINE_BYTES, csv.field_size_limit()))
        self._reader = csv.reader(self._text(), strict=True)
        self.line = 0
        self.header = self._read_header(name) if header is None else header
        self._first = int(self.header[:1] == [""])  # the first column with a name
        self.columns = self.header[self._first :]
        self._escaped = set(PREDICTION_COLUMNS) <= set(self.columns)

    def rows(self) -> Iterator[list[str] | BadRow]:
        """Read the cells of the rows one by one; no line behind the row that was returned is taken."""
        width, lines, reader = len(self.header), self._lines, self._reader
        while True:
            first = lines.number + 1
            self._quotes = self._size = 0
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as exc:
                if self._size > MAX_LINE_BYTES or "field limit" in str(exc):
                    self._skip_cell()
                    reader = csv.reader(self._text(), strict=True)
                extent = f" (up to line {lines.number})" if lines.number > first else ""
                yield BadRow(first, f"{exc}{extent}", [])
                continue
            if not cells:
                continue
            if len(cells) != width:
                yield BadRow(first, f"{len(cells)} fields under a header of {width}", cells)
            elif not _is_utf8("".join(cells)):
                yield BadRow(first, "not UTF-8", [ascii(cell) for cell in cells])
            else:
                self.line = first
                cells = cells[self._first :]
                yield list(map(_unescape_formula, cells)) if self._escaped else cells

    def _text(self) -> Iterator[str]:
        for line in self._lines:
            self._quotes += line.count(b'"')
            self._size += len(line)
            if self._size > MAX_LINE_BYTES:
                raise csv.Error(f"the row is longer than {MAX_LINE_BYTES >> 20} MiB")
            # The bytes that are not UTF-8 become surrogates, by which the row is rejected.
            yield line.decode(errors="surrogateescape") + "\n"

    def _skip_cell(self) -> None:
        """Take the other lines of a row that has too long a cell: read as rows, they would be forged ones."""
        while self._quotes % 2 and (line := next(self._lines, None)) is not None:
            self._quotes += line.count(b'"')

    def _read_header(self, name: str) -> list[str]:
        problem, header = "", []
        try:
            header = next((cells for cells in self._reader if cells), [])
        except csv.Error as exc:
            problem = str(exc)
        if not _is_utf8("".join(header)):
            problem = "the header is not UTF-8"
        elif "" in header[1:] or header == [""]:
            problem = "the header has a column without a name"
        elif len(set(header)) < len(header):
            problem = "the header has two columns of one name"
        if problem:
            raise SourceError(
                f"{name}: line {self._lines.number}: {problem}; a CSV file begins with a header that names "
                "each column, no two alike"
            )
        return list(map(_unescape_formula, header)) if set(PREDICTION_COLUMNS) <= set(header) else header


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may run the text: it begins with =, +, -, @ or the like, and is no number."""
    return re.match(FORMULA, text) is not None and re.fullmatch(NUMBER, text) is None


def _unescape_formula(text: str) -> str:
    return text[1:] if text.startswith("'") and is_formula(text[1:]) else text


def value_of_cell(cell: str) -> str | int | float | None:
    """Return the value of a cell whose type is not known.

    A blank cell is None, a number as JSON writes it a number, `true` or `false` in any case a truth value,
    all else text. So `007`, `+1`, `1,5`, `nan` and `yes` are text, and so is a number that does not fit into
    64 bits. Blanks around a number or a truth value are ignored.
    """
    number = cell.strip()
    if not number:
        return None
    if number[0] not in "-0123456789":
        return {"true": True, "false": False}.get(number.lower(), cell)
    try:
        value = _decode_number(number)
    except msgspec.DecodeError:
        return cell
    return value if isinstance(value, float) or -(1 << 63) <= value < 1 << 64 else cell


def value_of_type(cell: str, annotation: Any) -> str | int | float | None:
    """Return the value of a cell for a field of a type; the cell itself if it is no such value."""
    if _DATE.fullmatch(cell.strip()) and takes_datetime(annotation):
        return f"{cell.strip()}T00:00:00"  # pandas writes times that are all midnight as dates
    kind = column_kind(annotation)
    if kind == "bool":
        return _BOOLS.get(cell.strip().lower(), cell)
    return value_of_cell(cell) if kind in ("int", "float") else cell


def takes_datetime(annotation: Any) -> bool:
    """Return whether a field takes a `datetime`, and not a `date` too."""
    members = get_args(annotation) if get_origin(annotation) in (Annotated, Union, UnionType) else ()
    return annotation is datetime or (date not in members and any(map(takes_datetime, members)))


def _is_utf8(text: str) -> bool:
    """Whether a text that was decoded with surrogates for bad bytes has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
