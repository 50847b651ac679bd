"""Reading CSV, JSON lines and Parquet files. A line that cannot be read is rejected alone."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from eventml.deploy.batch.chunks import MAX_ROW_TEXT, RejectedRow, RowChunk, require_id_column
from eventml.deploy.batch.csv_reader import BadRow, CsvReader, TextLines
from eventml.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from io import BufferedReader
    from pathlib import Path


class _File:
    """A file with a fingerprint that changes when the file does; the base of all file sources.

    Raises:
        SourceError: There is no such file, or it cannot be read twice, as a resumed job must.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open():
            pass
        if not path.is_file():
            raise SourceError(f"{path} is no regular file: a job that is to be resumed cannot read it twice")

    def fingerprint(self) -> str:
        found = self._path.stat()
        return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"

    def total(self) -> int | None:
        return self._path.stat().st_size

    def close(self) -> None:
        pass  # no file is open between two chunks

    @contextmanager
    def _open(self) -> Iterator[BufferedReader]:
        try:
            with self._path.open("rb") as stream:
                yield stream
        except OSError as exc:
            raise SourceError(f"{self._path}: {exc.strerror}") from exc

    @contextmanager
    def _lines(self, after: Sequence[int] | None) -> Iterator[TextLines]:
        """The file's lines behind a position, which is a byte offset and the number of the line before it."""
        offset, number = after or (0, 0)
        with self._open() as stream:
            stream.seek(offset)
            yield TextLines(stream, str(self._path), offset=offset, number=number)


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

    def __init__(self, path: Path, id_column: str) -> None:
        super().__init__(path)
        with self._lines(None) as lines:
            reader = CsvReader(lines, str(path))
            self.columns, self._header = reader.columns, reader.header
            self._first_row = [lines.offset, lines.number]
        if not self.columns:
            raise SourceError(f"{path}: the file is empty; a CSV file begins with a header")
        require_id_column(path, self.columns, id_column)
        self._id = id_column

    def chunks(self, columns: Sequence[str], *, rows: int, after: Sequence[int] | None) -> Iterator[RowChunk]:
        places = [self.columns.index(name) for name in (self._id, *columns)]
        with self._lines(after or self._first_row) as lines:
            reader = CsvReader(lines, str(self._path), self._header)
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


class ParquetSource(_File):
    """Reads the rows of a Parquet file in its order. A position is the number of rows before it.

    Only the chosen columns are read, and of a row group no more than the pages of a chunk at a time.

    Raises:
        SourceError: There is no such file, it is no Parquet file, or lacks the column.
    """

    def __init__(self, path: Path, id_column: str) -> None:
        super().__init__(path)
        self._id = id_column
        with self._translate_errors():
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 18)
        self.columns = self._file.schema_arrow.names
        require_id_column(path, self.columns, id_column)

    def total(self) -> int | None:
        return int(self._file.metadata.num_rows)

    def chunks(self, columns: Sequence[str], *, rows: int, after: int | None) -> Iterator[RowChunk]:
        done, skip = 0, after or 0
        names = list(dict.fromkeys([self._id, *columns]))
        with self._translate_errors(lambda: f" behind row {done}"):
            # The pages of a chunk are few: threads would cost more memory than they save time.
            for batch in self._file.iter_batches(rows, columns=names, use_threads=False):
                done += batch.num_rows
                if done <= skip:
                    continue
                part = batch.slice(max(skip - (done - batch.num_rows), 0))
                yield RowChunk(
                    position=done,
                    ids=part.column(self._id),
                    columns={name: part.column(name) for name in columns},
                    done=done,
                )

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _translate_errors(self, place: Callable[[], str] = str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as exc:
            reason = str(exc).partition("\n")[0]
            raise SourceError(f"{self._path}: cannot be read as Parquet{place()}: {reason}") from exc
