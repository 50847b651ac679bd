"""CSV and JSON lines to events, a row at a time; a bad row stands alone, with its line and the reason."""

from __future__ import annotations

import csv
import math
import re
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from eventml.cli.output import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from eventml.cli.lines import Lines

Format = Literal["csv", "jsonl"]

_BOM: Final = b"\xef\xbb\xbf"
_SUFFIXES: Final[dict[str, Format]] = {
    ".csv": "csv",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DIGITS: Final = 19  # of an integer that is sure to fit in 64 bits, or nearly: `_number` looks closely


class Row(NamedTuple):
    """An event, and the line that it began on."""

    line: int
    event: Any


class Bad(NamedTuple):
    """Lines that make no event, and why."""

    line: int
    reason: str


def format_of(suffix: str, lines: Lines) -> Format:
    """CSV or JSON lines: by the file's suffix, else by how its first line begins."""
    if suffix.lower() in _SUFFIXES:
        return _SUFFIXES[suffix.lower()]
    first = (lines.peek() or b"").removeprefix(_BOM).lstrip()
    return "jsonl" if first.startswith((b"{", b"[")) else "csv"


def read_rows(
    lines: Lines, form: Format, *, text: Collection[str], needed: Collection[str]
) -> Iterator[Row | Bad]:
    """Read events. Blank lines are none.

    Args:
        lines: What to read.
        form: How.
        text: The columns of a CSV that are text whatever they look like.
        needed: Fields that each event must have, as text or a number: its key, its id.

    Raises:
        Refusal: a CSV has no usable header.
    """
    rows = read_csv(lines, text) if form == "csv" else read_json(lines)
    for row in rows:
        lacking = (
            next((name for name in needed if not has(row.event, name)), None) if type(row) is Row else None
        )
        yield row if lacking is None else Bad(row.line, f"no text or number in the field {lacking!r}")


def has(event: Any, field: str) -> bool:
    """Whether an event's field can be its key or its id."""
    value = event.get(field) if isinstance(event, dict) else None
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def read_json(lines: Lines) -> Iterator[Row | Bad]:
    """Read an event a line."""
    for raw in lines:
        line = raw.removeprefix(_BOM) if lines.number == 1 else raw
        if not line.strip():
            continue
        try:
            yield Row(lines.number, msgspec.json.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            yield Bad(lines.number, str(exc))


def read_csv(lines: Lines, text: Collection[str] = ()) -> Iterator[Row | Bad]:
    """Read an event a row: an object whose fields have the header's names; see `convert` for values."""
    reader = csv.reader(_texts(lines), strict=True)
    header = _header(reader, lines, text)
    kept = [name in text for name in header]
    while True:
        line = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield Bad(line, f"{exc}{f' (up to line {lines.number})' if lines.number > line else ''}")
            continue
        if not cells:
            continue
        if len(cells) != len(header):
            yield Bad(line, f"{len(cells)} fields under a header of {len(header)}")
        elif not all(map(_is_utf8, cells)):
            yield Bad(line, "not UTF-8")
        else:
            values = (cell if keep else convert(cell) for cell, keep in zip(cells, kept, strict=True))
            yield Row(line, dict(zip(header, values, strict=True)))


def convert(cell: str) -> str | int | float | None:
    """What a CSV's cell means: an empty one null, a number as JSON writes it a number, all else text.

    So `007`, `+1`, `1,5` and `nan` are text, and so is a number beyond 64 bits.
    """
    stripped = cell.strip()
    if not stripped:
        return None
    found = _NUMBER.fullmatch(stripped)
    if found is None:
        return cell
    if found[1] is None and found[2] is None:
        if len(stripped) > _DIGITS + 1:
            return cell
        whole = int(stripped)
        return whole if -(1 << 63) <= whole < 1 << 64 else cell
    number = float(stripped)
    return number if math.isfinite(number) else cell


def _header(reader: Iterator[list[str]], lines: Lines, text: Collection[str]) -> Sequence[str]:
    try:
        header = next((cells for cells in reader if cells), [])
    except csv.Error as exc:
        raise UsageError(f"line {lines.number}: {exc}; a CSV begins with a header") from exc
    if not all(map(_is_utf8, header)):
        raise UsageError(f"line {lines.number}: not UTF-8; a CSV begins with a header")
    if header and ("" in header or len(set(header)) < len(header)):
        raise UsageError(f"line {lines.number}: a CSV's header names each column, and no two alike")
    unknown = [name for name in text if name not in header]
    if header and unknown:
        raise UsageError(f"no column is named {unknown[0]!r}; there are: {', '.join(header)}")
    return header


def _texts(lines: Lines) -> Iterator[str]:
    for raw in lines:
        line = raw.removeprefix(_BOM) if lines.number == 1 else raw
        yield line.decode(errors="surrogateescape") + "\n"


def _is_utf8(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True
