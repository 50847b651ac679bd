"""Reading CSV and JSON lines. A line that cannot be read is rejected alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from eventml.deploy.batch.chunks import MAX_ROW_TEXT, RejectedRow, RowChunk, require_id_column
from eventml.deploy.batch.csv_reader import BadRow, CsvReader, TextLines
from eventml.deploy.batch.locations import FileLocation
from eventml.deploy.batch.stores import fingerprint_of, open_file, store_errors
from eventml.errors import SourceError

if TYPE_CHECKING:
    from io import BufferedReader


class _File:
    """A file with a fingerprint that changes when the file does; the base of all file sources.

    Raises:
        SourceError: There is no such file, or it cannot be read twice, as a resumed job must.
    """

    def __init__(self, location: FileLocation) -> None:
        self._location = location
        self._fingerprint = fingerprint_of(location)
        with self._open():
            pass
        if not location.url and not location.path.is_file():
            raise SourceError(
                f"{location} is no regular file: a job that is to be resumed cannot read it twice"
            )

    def fingerprint(self) -> str:
        return self._fingerprint

    def total(self) -> int | None:
        return None if self._location.url else self._location.path.stat().st_size

    def close(self) -> None:
        pass  # no file is open between two chunks

    @contextmanager
    def _open(self) -> Iterator[BufferedReader]:
        with store_errors(self._location, SourceError, "read"), open_file(self._location) as stream:
            yield stream

    @contextmanager
    def _lines(self, after: Sequence[int] | None) -> Iterator[TextLines]:
        """The file's lines behind a position, which is a byte offset and the number of the line before it."""
        offset, number = after or (0, 0)
        with self._open() as stream:
            stream.seek(offset)
            yield TextLines(stream, str(self._location), offset=offset, number=number)


class JsonLinesSource(_File):
    """Reads one JSON object a line. Blank lines are skipped."""

    columns = None

    def chunks(self, columns: Sequence[str], *, rows: int, after: Sequence[int] | None) -> Iterator[RowChunk]:
        """Read all fields of each line: their names are known only once the line is decoded."""
        del columns
        with self._lines(after) as lines:
            numbered = ((lines.number, line) for line in lines if line.strip())
            while taken := list(islice(numbered, rows)):
                yield RowChunk(
                    position=[lines.offset, lines.number],
                    lines=[line for _, line in taken],
                    labels=[f"line {number}" for number, _ in taken],
                    done=lines.offset,
                )


class CsvSource(_File):
    """Reads the rows of a CSV as text, None for a blank cell.

    Raises:
        SourceError: There is no such file, it has no usable header, or lacks the column.
    """

    def __init__(self, location: FileLocation, id_column: str) -> None:
        super().__init__(location)
        with self._lines(None) as lines:
            reader = CsvReader(lines, str(location))
            self.columns, self._header = reader.columns, reader.header
            self._first_row = [lines.offset, lines.number]
        if not self.columns:
            raise SourceError(f"{location}: the file is empty; a CSV file begins with a header")
        require_id_column(location, self.columns, id_column)
        self._id = id_column

    def chunks(self, columns: Sequence[str], *, rows: int, after: Sequence[int] | None) -> Iterator[RowChunk]:
        places = [self.columns.index(name) for name in (self._id, *columns)]
        with self._lines(after or self._first_row) as lines:
            reader = CsvReader(lines, str(self._location), self._header)
            found = reader.rows()
            while True:
                good: list[list[str]] = []
                labels: list[str] = []
                rejected: list[RejectedRow] = []
                for row in islice(found, rows):
                    if isinstance(row, BadRow):
                        shown = msgspec.json.encode(row.cells).decode() if row.cells else ""
                        line = f"line {row.line}"
                        rejected.append(RejectedRow(line, "DecodeError", row.reason, shown[:MAX_ROW_TEXT]))
                    else:
                        good.append(row)
                        labels.append(f"line {reader.line}")
                if not good and not rejected:
                    return
                ids, *values = [
                    [cell if (cell := cells[place]) and not cell.isspace() else None for cells in good]
                    for place in places
                ]
                yield RowChunk(
                    position=[lines.offset, lines.number],
                    ids=ids,
                    columns=dict(zip(columns, values, strict=True)),
                    rejected=rejected,
                    done=lines.offset,
                    labels=labels,
                )
