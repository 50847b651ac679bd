"""Chunks, which pass between the stages of a job; the protocols of sources and targets; columns of values.

A column is a list, or a pyarrow array, which only a source that has pyarrow makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec

from eventml.deploy.batch.output_columns import OutputSchema, Values, as_list, readable_values, take
from eventml.errors import DecodeError, SourceError
from eventml.printable import printable

Part = TypeVar("Part")

Position: TypeAlias = Any
"""How far a source has been read: any value that JSON can hold. Only the source that made it reads it."""


DUPLICATE_ID: Final = "DuplicateIdError"
"""The exception of a row that is rejected because an earlier row of the source has its id."""

MAX_ROW_TEXT: Final = 100_000
"""Characters of a row that are kept when it is rejected."""


class RejectedRow(msgspec.Struct, frozen=True):
    """A row without a prediction because of an error: the name of the exception's class and its message.

    Attributes:
        id: The row's id; if it has none that can be read, its location in the source, such as `line 17`.
        row: The row as JSON, as far as it could be read, cut to `MAX_ROW_TEXT`.
        attempts: How often the predictor was called for it.
    """

    id: str
    exception: str
    message: str
    row: str
    attempts: int = 1


class RowChunk(msgspec.Struct):
    """Consecutive rows of a source.

    Attributes:
        position: The source's position behind them.
        ids: The rows' ids, None where one is missing. Empty if `lines` is set.
        columns: The rows' values by column, without the id unless the event has it as a field.
        lines: The rows as JSON lines, in place of ids and columns.
        rejected: Rows that could not be read; they are in neither ids nor lines.
        done: How much of the source lies before `position`, in the unit of `Source.total`.
        labels: The rows' locations in the source, such as `line 17`.
        known: Rows that were dropped because the target has their prediction.
    """

    position: Position
    ids: Values = ()
    columns: Mapping[str, Values] = {}
    lines: Sequence[bytes] | None = None
    rejected: Sequence[RejectedRow] = ()
    done: int = 0
    labels: Sequence[str] | None = None
    known: int = 0

    def __len__(self) -> int:
        return len(self.ids if self.lines is None else self.lines) + len(self.rejected)

    def label(self, number: int) -> str:
        """Return the location of a row that could be read, by its number in the chunk."""
        return self.labels[number] if self.labels else f"row {self.done - len(self.ids) + number + 1}"

    def take(self, numbers: Sequence[int]) -> RowChunk:
        """Return the chunk with these of the rows that could be read."""
        return msgspec.structs.replace(
            self,
            ids=take(self.ids, numbers) if self.lines is None else (),
            columns={name: take(column, numbers) for name, column in self.columns.items()},
            lines=None if self.lines is None else take(self.lines, numbers),
            labels=list(map(self.label, numbers)),
        )


class ScoredChunk(msgspec.Struct):
    """The predictions for a chunk of rows, as columns.

    Attributes:
        position, known, done: As in the `RowChunk`.
        ids: The ids of the rows that have a prediction.
        columns: The predictions' values, in the order of the schema's columns.
        schema: The columns; None while nothing was predicted.
        rejected: The rows that could not be read, and those that failed.
        read: Rows in the chunk.
        no_output: The ids of the rows for which the predictor returned None.
        row: Returns the source's row of one of the ids, by its number, as JSON.
    """

    position: Position
    ids: Values
    columns: Sequence[Values]
    schema: OutputSchema | None
    rejected: Sequence[RejectedRow]
    read: int
    known: int
    no_output: Values
    done: int
    row: Callable[[int], str]

    def reject(self, errors: Mapping[int, Exception], exception: str) -> None:
        """Move ids, by their numbers, to the rejected rows. The columns do not hold them, or are written."""
        if not errors:
            return
        ids, row = as_list(self.ids), self.row
        kept = [number for number in range(len(ids)) if number not in errors]
        self.rejected = [
            *self.rejected,
            *(
                RejectedRow(str(ids[number]), exception, printable(str(errors[number])), row(number))
                for number in sorted(errors)
            ),
        ]
        self.ids, self.row = take(ids, kept), lambda number: row(kept[number])


class RowCounts(msgspec.Struct):
    """Rows by their result, those of the earlier runs that this run resumes included.

    Attributes:
        read: Rows read: the sum of `written`, `unchanged`, `no_output` and `rejected`.
        written: Predictions that were added to the target, or replaced in it.
        changed: Those of them that replaced one of the same predictor and model version.
        unchanged: Rows whose prediction the target has already; without `only_new` it is the same.
        no_output: Rows for which the predictor returned None.
        rejected: Rows that failed.
        duplicates: Those of them that have the id of an earlier row.
    """

    read: int = 0
    written: int = 0
    changed: int = 0
    unchanged: int = 0
    no_output: int = 0
    rejected: int = 0
    duplicates: int = 0

    def plus(self, chunk: ScoredChunk, *, new: int, changed: int = 0) -> RowCounts:
        """Return the counts with a chunk added, of whose predictions so many were new and so many changed."""
        return RowCounts(
            read=self.read + chunk.read,
            written=self.written + new + changed,
            changed=self.changed + changed,
            unchanged=self.unchanged + chunk.known + len(chunk.ids) - new - changed,
            no_output=self.no_output + len(chunk.no_output),
            rejected=self.rejected + len(chunk.rejected),
            duplicates=self.duplicates + sum(row.exception == DUPLICATE_ID for row in chunk.rejected),
        )


class RunIdentity(msgspec.Struct, frozen=True):
    """Properties that two runs must share for the second to resume the first.

    Without a model its name and version are empty. The source's text holds no passwords.
    """

    predictor: str
    model: str
    model_version: str
    source: str
    fingerprint: str
    id_column: str
    only_new: bool = False

    @property
    def id_suffix(self) -> str:
        """The part of a prediction's id behind the row's id and a slash."""
        return f"{self.predictor}@{self.model_version}" if self.model else self.predictor


class Checkpoint(msgspec.Struct):
    """How far a run has come, stored together with what it has written.

    Attributes:
        position: The source's position behind the last row that is finished; None at the beginning.
        counts: The rows before it.
        saved: When it was made, in seconds since the epoch.
    """

    position: Position | None = None
    counts: RowCounts = msgspec.field(default_factory=RowCounts)
    saved: float = msgspec.field(default_factory=time.time)


class Source(Protocol):
    """Reads rows. Its methods block, and are called from one thread at a time."""

    @property
    def columns(self) -> Sequence[str] | None:
        """The columns' names; None if each row has its own."""

    def fingerprint(self) -> str:
        """Return a text that changes when the positions of earlier runs are no longer valid."""

    def total(self) -> int | None:
        """Return how much there is to read, in the unit of `RowChunk.done`; None if it is not known."""

    def chunks(self, columns: Sequence[str], *, rows: int, after: Position | None) -> Iterator[RowChunk]:
        """Read these columns and the ids behind a position, in the same order every time.

        A chunk has at most so many rows. The position None is the beginning.

        Raises:
            SourceError: The source cannot be read.
        """

    def close(self) -> None:
        """Release files and connections."""


class Target(Protocol):
    """Writes predictions. Its methods block, and are called one at a time, from any thread."""

    rejects: str
    """Where the rejected rows are written, without passwords."""

    def begin(self, run: RunIdentity, schema: OutputSchema | None, since: float = 0) -> Checkpoint:
        """Prepare to write, and return the last checkpoint of an unfinished run of this identity.

        If there is none, or it was saved before `since` (seconds since the epoch), a new one is returned.

        Raises:
            TargetError: The target cannot be written, or has other columns.
        """

    def known(self, ids: Values) -> set[Any]:
        """Return those of the ids whose prediction is to be kept, or fewer, so that they are not scored."""
        del ids
        return set()

    def write(self, chunk: ScoredChunk) -> RowCounts:
        """Write the predictions, the rejected rows and the checkpoint, and return the counts so far.

        A prediction replaces an earlier one of the same id, predictor and model version.

        A prediction that the target cannot hold is moved to the chunk's rejected rows.

        Raises:
            TargetError: Nothing of the chunk was written.
        """

    def pause(self) -> None:
        """Store all that was written, so that the next run resumes behind it."""

    def finish(self) -> None:
        """Complete the target after the last row."""

    def close(self) -> None:
        """Release files, locks and connections."""


def require_id_column(source: object, columns: Sequence[str], id_column: str) -> None:
    """Raise SourceError unless the source has the column of the ids."""
    if id_column not in columns:
        raise SourceError(
            f"{source} has no column {id_column!r} to take the ids from; there are: {', '.join(columns)}. "
            "Choose one with --id, or id_column of a scorer"
        )


def normalize_ids(ids: Values) -> tuple[Values, bool]:
    """Return ids as integers or text, and whether one is missing or not `is_storable`; then as a list.

    What is neither (a UUID, a time) becomes text. Where both occur, all become text.
    """
    if hasattr(ids, "null_count"):
        import pyarrow as pa  # noqa: PLC0415 - the column is pyarrow's, so it is installed
        import pyarrow.compute as pc  # noqa: PLC0415 - as above

        if not ids.null_count and pa.types.is_int64(ids.type):
            return ids, False
        if pa.types.is_large_string(ids.type):  # pandas writes those
            ids = ids.cast(pa.string())
        if not ids.null_count and pa.types.is_string(ids.type):
            with suppress(ValueError):  # texts that are not UTF-8
                ids.validate(full=True)
                if not pc.any(pc.match_substring(ids, "\x00")).as_py():
                    return ids, False
    values = readable_values(ids)
    kinds = set(map(type, values))
    if kinds <= {str}:
        return values, "\x00" in "".join(values)
    if kinds <= {int}:
        return values, not (is_storable(min(values)) and is_storable(max(values)))
    if not kinds <= {int, type(None)}:
        values = [None if one is None or isinstance(one, DecodeError) else str(one) for one in values]
    return values, not all(map(is_storable, values))


def is_storable(row_id: Any) -> bool:
    """Whether every target can hold an id: an integer of 64 bits, or text without null characters."""
    if isinstance(row_id, int):
        return -(1 << 63) <= row_id < 1 << 63
    return isinstance(row_id, str) and "\x00" not in row_id


def to_integer(row_id: int | str) -> int:
    """Convert an id for a target whose ids are integers.

    Raises:
        ValueError: It is another text than the integer's: `007` is not 7.
    """
    with suppress(ValueError):
        found = int(row_id)
        if str(found) == str(row_id):
            return found
    raise ValueError(f"the ids in the target are integers, and {row_id!r:.100} is not")


def bisect_rows(
    size: int, call: Callable[[int, int], Part], invalid: type[Exception] | tuple[type[Exception], ...]
) -> tuple[list[Part], dict[int, Exception]]:
    """Call for all rows, or for smaller ranges of them where an invalid row makes a call fail.

    Returns:
        The results of the calls, in the order of the rows, and the error of each row that fails alone.
    """
    parts: list[Part] = []
    errors: dict[int, Exception] = {}
    ranges = [(0, size)] if size else []
    while ranges:
        start, stop = ranges.pop()
        try:
            parts.append(call(start, stop))
        except invalid as exc:
            middle = (start + stop) // 2
            if middle == start:
                errors[start] = exc
            else:
                ranges += [(middle, stop), (start, middle)]
    return parts, errors
