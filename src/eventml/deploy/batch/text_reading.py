"""Reading CSV and JSON lines, a chunk at a time; a bad line stands alone."""

from __future__ import annotations

import csv
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.deploy.batch.chunks import Chunk, Rejected
from eventml.deploy.batch.opening import fingerprint, require_file
from eventml.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

LONGEST: Final = 16 << 20
"""Bytes in one line: what is longer is no text."""

_BOM: Final = b"\xef\xbb\xbf"
_SHOWN: Final = 10_000  # characters of a bad line that are kept


class Lines:
    """An iterator over a file's lines, without their ends, that knows how far it has come.

    Attributes:
        offset: Of the first byte behind the line that was last taken.
        number: Of that line, from 1.
    """

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self.offset = 0
        self.number = 0

    def skip_to(self, offset: int, number: int) -> None:
        self._stream.seek(offset)
        self.offset, self.number = offset, number

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self._stream.readline(LONGEST)
        if not line:
            raise StopIteration
        self.offset += len(line)
        self.number += 1
        if len(line) >= LONGEST:
            raise SourceError(
                f"{self._path}: line {self.number} is longer than {LONGEST >> 20} MiB: this is no text"
            )
        if self.number == 1:
            line = line.removeprefix(_BOM)
        return line.rstrip(b"\r\n") if line.endswith(b"\n") else line


class JsonLinesSource:
    """One JSON object a line; blank lines are none. A position is a byte offset and a line's number."""

    columns = None

    def __init__(self, path: Path) -> None:
        require_file(path)
        self._path = path

    def fingerprint(self) -> str:
        return fingerprint(self._path)

    def total(self) -> int | None:
        return self._path.stat().st_size

    def chunks(self, _wanted: Sequence[str], *, rows: int, after: list[int] | None) -> Iterator[Chunk]:
        with _opened(self._path) as stream:
            lines = Lines(stream, self._path)
            if after:
                lines.skip_to(*after)
            numbered = ((lines.number, line) for line in lines if line.strip())
            while some := list(islice(numbered, rows)):
                yield Chunk(
                    after=[lines.offset, lines.number],
                    lines=[line for _, line in some],
                    places=[f"line {number}" for number, _ in some],
                    done=lines.offset,
                )

    def close(self) -> None:
        """Nothing is open between two reads."""


class CsvSource:
    """Rows of text under a header, in UTF-8 with commas; an empty cell is null.

    Args:
        path: The file.
        id_column: Where the ids are.

    Raises:
        SourceError: there is no such file, it has no usable header, or lacks the column.
    """

    def __init__(self, path: Path, id_column: str) -> None:
        require_file(path)
        self._path = path
        with _opened(path) as stream:
            lines = Lines(stream, path)
            self.columns = self._header(lines)
            self._begin = [lines.offset, lines.number]
        if id_column not in self.columns:
            raise SourceError(
                f"{path} has no column {id_column!r} to take the ids from; there are: "
                f"{', '.join(self.columns)}. Choose one with --id"
            )
        self._id = id_column

    def fingerprint(self) -> str:
        return fingerprint(self._path)

    def total(self) -> int | None:
        return self._path.stat().st_size

    def chunks(self, wanted: Sequence[str], *, rows: int, after: list[int] | None) -> Iterator[Chunk]:
        places = [self.columns.index(name) for name in (self._id, *wanted)]
        with _opened(self._path) as stream:
            lines = Lines(stream, self._path)
            lines.skip_to(*(after or self._begin))
            reader = csv.reader(_texts(lines), strict=True)
            while True:
                good, numbers, rejected = self._take(reader, lines, rows)
                if not good and not rejected:
                    return
                ids, *columns = [[cells[place] or None for cells in good] for place in places]
                yield Chunk(
                    after=[lines.offset, lines.number],
                    ids=ids,
                    columns=dict(zip(wanted, columns, strict=True)),
                    rejected=rejected,
                    done=lines.offset,
                    places=numbers,
                )

    def _take(
        self, reader: Any, lines: Lines, rows: int
    ) -> tuple[list[list[str]], list[str], list[Rejected]]:
        """The cells of the next rows, where each row begins, and those that are none."""
        good: list[list[str]] = []
        numbers: list[str] = []
        rejected: list[Rejected] = []
        width = len(self.columns)
        while len(good) + len(rejected) < rows:
            first = lines.number + 1
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as exc:
                ends = f" (up to line {lines.number})" if lines.number > first else ""
                rejected.append(_bad(first, f"{exc}{ends}", ""))
                continue
            if not cells:
                continue
            if len(cells) != width:
                rejected.append(_bad(first, f"{len(cells)} fields under a header of {width}", cells))
            elif not _is_utf8("".join(cells)):
                rejected.append(_bad(first, "not UTF-8", [ascii(cell) for cell in cells]))
            else:
                good.append(cells)
                numbers.append(f"line {first}")
        return good, numbers, rejected

    def _header(self, lines: Lines) -> list[str]:
        try:
            header = next((cells for cells in csv.reader(_texts(lines), strict=True) if cells), [])
        except csv.Error as exc:
            raise SourceError(
                f"{self._path}: line {lines.number}: {exc}; a CSV begins with a header"
            ) from exc
        if not header or "" in header or len(set(header)) < len(header) or not _is_utf8("".join(header)):
            raise SourceError(
                f"{self._path}: a CSV begins with a header that names each column, in UTF-8 and no two alike"
            )
        return header

    def close(self) -> None:
        """Nothing is open between two reads."""


def _bad(line: int, reason: str, row: object) -> Rejected:
    shown = row if isinstance(row, str) else msgspec.json.encode(row).decode()
    return Rejected(id=f"line {line}", exception="DecodeError", message=reason, row=shown[:_SHOWN])


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=1 << 20)
    except OSError as exc:
        raise SourceError(f"{path}: {exc.strerror}") from exc


def _texts(lines: Lines) -> Iterator[str]:
    for line in lines:
        yield line.decode(errors="surrogateescape") + "\n"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
