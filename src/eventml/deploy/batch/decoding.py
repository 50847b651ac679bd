"""From a chunk as it was read to events, with the rows that make none set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.codec import shorten, to_builtin
from eventml.deploy.batch.chunks import Chunk, Column, Rejected
from eventml.deploy.batch.columns import as_list, take
from eventml.errors import DecodeError
from eventml.frames import cast_table, schema_of
from eventml.runtime import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventml.deploy.batch.shape import Shape
    from eventml.frames import FrameType

_KEPT: Final = 100_000  # characters of a row that a reject keeps


class Decoded(msgspec.Struct):
    """The events of a chunk, and their ids beside them.

    Attributes:
        ids: One for each event: integers or text.
        events: The events; an Arrow table of them, for a handler of frames, where the chunk was one.
        row: The row as JSON that an event was made of, by its number.
        rejected: The rows that made none.
        table_events: Makes a list of the events, where they are a table.
    """

    ids: Column
    events: Any
    row: Callable[[int], str]
    rejected: list[Rejected]
    table_events: Callable[[], list[Any]] | None = None

    def listed(self, start: int, stop: int) -> list[Any]:
        """The events from one number up to another, as a list."""
        if self.table_events is not None:
            self.events, self.table_events = self.table_events(), None
        events: list[Any] = self.events[start:stop]
        return events


class Decoding:
    """Decodes the chunks of one source for one handler.

    Args:
        shape: What an event is made of.
        event_type: Its type.
        id_column: The field of a JSON line that is its id.
        frame: What frame the handler takes, if it does.
    """

    def __init__(self, shape: Shape, event_type: Any, id_column: str, frame: FrameType | None = None) -> None:
        self._shape = shape
        self._id = id_column
        self._frame = frame
        self._decode = msgspec.json.Decoder(event_type).decode
        only_id = msgspec.defstruct("OnlyId", [("id", Any)], rename={"id": id_column})
        self._decode_id: Callable[[bytes], Any] = msgspec.json.Decoder(only_id).decode

    def decode(self, chunk: Chunk) -> Decoded:
        """Its events."""
        if chunk.lines is not None:
            return self._lines(chunk)
        if self._frame is not None and (decoded := self._table(chunk, self._frame)) is not None:
            return decoded
        columns = {name: as_list(column) for name, column in chunk.columns.items()}
        return self._columns(chunk, columns)

    def _table(self, chunk: Chunk, frame: FrameType) -> Decoded | None:
        """Columns of Arrow as a table; None where they are not, or a row is none of the event's type."""
        ids, lacking = usable(chunk.ids)
        if lacking or not chunk.columns or not all(hasattr(c, "to_pylist") for c in chunk.columns.values()):
            return None
        import pyarrow as pa  # noqa: PLC0415 - whoever has such columns has it

        try:
            table = cast_table(pa.table(dict(chunk.columns)), frame.columns, schema_of(frame.columns))
        except DecodeError:
            return None

        def listed() -> list[Any]:
            return self._shape.events({n: as_list(c) for n, c in chunk.columns.items()}, len(table))

        def row(event: int) -> str:
            return as_json(
                {name: as_list(column[event : event + 1])[0] for name, column in chunk.columns.items()}
            )

        return Decoded(ids, table, row, list(chunk.rejected), listed)

    def _columns(self, chunk: Chunk, columns: Mapping[str, list[Any]]) -> Decoded:
        ids, without = usable(chunk.ids)
        rows = len(chunk.ids)
        if not without:
            try:
                events = self._shape.events(columns, rows)
            except DecodeError:
                pass
            else:
                return Decoded(ids, events, self._row_of(columns, range(rows)), list(chunk.rejected))
        return self._one_by_one(chunk, columns, as_list(ids))

    def _one_by_one(self, chunk: Chunk, columns: Mapping[str, list[Any]], ids: list[Any]) -> Decoded:
        rejected = list(chunk.rejected)
        kept: list[int] = []
        events: list[Any] = []
        for number, row in enumerate(self._shape.rows(columns, len(ids))):
            try:
                self._require(ids[number])
                events.append(self._shape.event(row))
                kept.append(number)
            except DecodeError as exc:
                rejected.append(_rejected(_name(chunk, number, ids[number]), exc, as_json(row)))
        return Decoded([ids[number] for number in kept], events, self._row_of(columns, kept), rejected)

    def _row_of(self, columns: Mapping[str, list[Any]], kept: Sequence[int]) -> Callable[[int], str]:
        return lambda event: as_json({name: column[kept[event]] for name, column in columns.items()})

    def _lines(self, chunk: Chunk) -> Decoded:
        lines = chunk.lines or ()
        try:
            events, ids = list(map(self._decode, lines)), [one.id for one in map(self._decode_id, lines)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            ids = [None]
        if set(map(type, ids)) <= {str} or set(map(type, ids)) <= {int}:
            return Decoded(ids, events, lambda event: _text(lines[event]), list(chunk.rejected))
        return self._each_line(chunk, lines)

    def _require(self, name: Any) -> None:
        if name is None or isinstance(name, dict | list | bool):
            raise DecodeError(f"the row has no id: {self._id} is {'null' if name is None else shorten(name)}")

    def _each_line(self, chunk: Chunk, lines: Sequence[bytes]) -> Decoded:
        rejected = list(chunk.rejected)
        kept: list[bytes] = []
        events: list[Any] = []
        ids: list[Any] = []
        for number, line in enumerate(lines):
            name = None
            try:
                name = self._decode_id(line).id
                self._require(name)
                event = self._decode(line)
            except (msgspec.DecodeError, DecodeError, UnicodeDecodeError, RecursionError) as exc:
                usual = None if isinstance(name, dict | list | bool) else name
                rejected.append(_rejected(_name(chunk, number, usual), DecodeError(str(exc)), _text(line)))
                continue
            events.append(event)
            ids.append(name)
            kept.append(line)
        return Decoded(usable(ids)[0], events, lambda event: _text(kept[event]), rejected)


def usable(ids: Column) -> tuple[Column, bool]:
    """Ids as integers or text, and whether one is missing; in that case as a list.

    What is neither (a UUID, a time) becomes text. Where both occur, all are text.
    """
    if hasattr(ids, "null_count"):
        import pyarrow as pa  # noqa: PLC0415 - whoever has such columns has it

        if not ids.null_count and (pa.types.is_string(ids.type) or pa.types.is_int64(ids.type)):
            return ids, False
        if not ids.null_count and pa.types.is_large_string(ids.type):  # pandas writes those
            return ids.cast(pa.string()), False
    listed = as_list(ids)
    kinds = set(map(type, listed))
    if kinds <= {str} or kinds <= {int}:
        return listed, False
    as_is = kinds <= {int, type(None)}
    found = [one if one is None or as_is else str(one) for one in listed]
    return found, type(None) in kinds


def without(chunk: Chunk, known: Callable[[Column], set[Any]]) -> tuple[Chunk, int]:
    """The chunk without the rows that need not be called for, and how many these were."""
    if chunk.lines is not None or not len(chunk.ids):
        return chunk, 0
    column = usable(chunk.ids)[0]
    there = known(column)
    if not there:
        return chunk, 0
    ids = as_list(column)
    left = [number for number, one in enumerate(ids) if one not in there]
    kept = msgspec.structs.replace(
        chunk,
        ids=take(chunk.ids, left),
        columns={name: take(column, left) for name, column in chunk.columns.items()},
        places=None if chunk.places is None else [chunk.places[number] for number in left],
    )
    return kept, len(ids) - len(left)


def as_json(row: Mapping[str, Any]) -> str:
    """A row as a reject keeps it: what has no form in JSON as Python shows it."""
    try:
        return msgspec.json.encode(row, enc_hook=_shown).decode()[:_KEPT]
    except (ValueError, TypeError, RecursionError):
        return msgspec.json.encode({name: ascii(value) for name, value in row.items()}).decode()[:_KEPT]


def _shown(value: Any) -> Any:
    try:
        return to_builtin(value)
    except TypeError:
        return repr(value)


def _name(chunk: Chunk, number: int, row_id: Any) -> str:
    """The row's id, or where it stands."""
    if row_id is not None:
        return str(row_id)
    if chunk.places is not None:
        return chunk.places[number]
    return f"row {chunk.done - len(chunk.ids) + number + 1}"


def _rejected(name: str, error: Exception, row: str) -> Rejected:
    return Rejected(id=name, exception=type(error).__qualname__, message=_message(error), row=row)


def _message(error: Exception) -> str:
    return describe(error).removeprefix(f"{type(error).__name__}: ")


def _text(line: bytes) -> str:
    return line.decode(errors="backslashreplace")[:_KEPT]
