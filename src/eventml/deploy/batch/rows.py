"""Rows to events: which columns an event needs, and building events of columns, rows and JSON lines.

A whole column is checked against its field's type at once, and the events are built column by column:
the same checks as one by one, in a tenth of the time. If one row is invalid, the rows are converted one
by one, so that only the invalid ones are rejected.
"""

from __future__ import annotations

import inspect
import types
from decimal import Decimal
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.codec import shorten, to_builtin
from eventml.deploy.batch.chunks import RejectedRow, RowChunk, Values, as_list, normalize_ids
from eventml.deploy.batch.csv_reader import value_of_cell
from eventml.deploy.batch.schema import column_kind
from eventml.errors import DecodeError, SourceError
from eventml.frames import FrameType, cast_table
from eventml.runtime import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_ROW_TEXT: Final = 100_000
"""Characters of a row that are kept when it is rejected."""


class EventBuilder:
    """Builds events of rows.

    Args:
        event_type: The type of one event: a Struct, a dataclass, a TypedDict, `dict`, `Any`.
        from_text: Whether the values are the cells of a CSV: each is converted to its field's type, or
            where that is not known as `csv_reader.value_of_cell` says.
    """

    def __init__(self, event_type: Any, *, from_text: bool = False) -> None:
        self._type = event_type
        self._from_text = from_text
        self._fields = _fields(event_type)
        self._columnwise = self._fields is not None and _is_positional(event_type)
        untyped = event_type in (Any, dict, dict[str, Any])
        kinds = [field.type for field in (self._fields or {}).values()]
        self._infers_cells = from_text and (untyped or Any in kinds)

    def columns_to_read(self, available: Sequence[str], source: object) -> list[str]:
        """Choose the columns that the event needs.

        Raises:
            SourceError: The source lacks a column that the event requires.
        """
        if self._fields is None:
            return list(available)
        missing = [name for name, field in self._fields.items() if field.required and name not in available]
        if missing:
            kind = getattr(self._type, "__name__", self._type)
            raise SourceError(
                f"{source} has no column {', '.join(map(repr, missing))}, which {kind} needs; there are: "
                f"{', '.join(available)}. Rename it in a view, or by --query: SELECT ... AS {missing[0]}"
            )
        return [name for name in available if name in self._fields]

    def events(self, columns: Mapping[str, list[Any]], rows: int) -> list[Any]:
        """Build the events of all rows.

        Raises:
            DecodeError: A row does not fit the event's type; `event` tells which one.
        """
        try:
            if self._fields is not None and self._columnwise and columns.keys() <= self._fields.keys():
                values = [self._column(field, columns, rows) for field in self._fields.values()]
                return list(map(self._type, *values)) if values else [self._type() for _ in range(rows)]
            return [self._convert(row) for row in split_rows(columns, rows)]
        except (msgspec.ValidationError, ValueError, TypeError) as exc:
            raise DecodeError(str(exc)) from exc

    def event(self, row: Mapping[str, Any]) -> Any:
        """Build the event of one row.

        Raises:
            DecodeError: The row does not fit the event's type; names the field.
        """
        try:
            return self._convert(row)
        except (msgspec.ValidationError, ValueError, TypeError, RecursionError) as exc:
            raise DecodeError(str(exc)) from exc

    def _convert(self, row: Mapping[str, Any]) -> Any:
        if self._infers_cells:
            row = {name: _cell(v) if self._type_of(name) is Any else v for name, v in row.items()}
        try:
            return msgspec.convert(row, self._type, strict=not self._from_text)
        except msgspec.ValidationError:
            converted = {name: as_json_value(value, self._type_of(name)) for name, value in row.items()}
            if converted == row and all(type(converted[name]) is type(row[name]) for name in row):
                raise
            return msgspec.convert(converted, self._type, strict=not self._from_text)

    def _type_of(self, name: str) -> Any:
        return self._fields[name].type if self._fields and name in self._fields else Any

    def _column(self, field: msgspec.structs.FieldInfo, columns: Mapping[str, list[Any]], rows: int) -> Any:
        if field.encode_name not in columns:
            if field.default_factory is msgspec.NODEFAULT:
                return repeat(field.default, rows)
            return [field.default_factory() for _ in range(rows)]
        values, expected = columns[field.encode_name], types.GenericAlias(list, (field.type,))
        if self._from_text and field.type is Any:
            return list(map(_cell, values))
        try:
            return msgspec.convert(values, expected, strict=not self._from_text)
        except msgspec.ValidationError:
            converted = [as_json_value(value, field.type) for value in values]
            return msgspec.convert(converted, expected, strict=not self._from_text)


def split_rows(columns: Mapping[str, list[Any]], rows: int) -> list[dict[str, Any]]:
    """Return the rows of some columns."""
    if not columns:
        return [{} for _ in range(rows)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def as_json_value(value: Any, expected: Any) -> Any:
    """Convert a database's value to what a stream's JSON would hold for a field of the expected type.

    A UUID or a time becomes text, a whole decimal an integer; 0 and 1 become truth values where the field
    is one.
    """
    if isinstance(value, Decimal):
        if column_kind(expected) == "int" and value == value.to_integral_value():
            return int(value)
        return str(value) if expected is str else value
    if type(value) is int and value in (0, 1) and column_kind(expected) == "bool":
        return bool(value)
    return value if isinstance(value, bytes) else msgspec.to_builtins(value)


def _cell(text: str | None) -> Any:
    return None if text is None else value_of_cell(text)


def _fields(event_type: Any) -> dict[str, msgspec.structs.FieldInfo] | None:
    """The fields of a Struct by their names in JSON; None for any other type."""
    try:
        fields = msgspec.structs.fields(event_type)
    except TypeError:
        return None
    return {field.encode_name: field for field in fields}


def _is_positional(event_type: Any) -> bool:
    """Whether an event can be built by passing the values of its fields in their order."""
    config = event_type.__struct_config__
    parameters = inspect.signature(event_type).parameters.values()
    return (
        config.tag is None
        and not config.array_like
        and not hasattr(event_type, "__post_init__")
        and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    )


class DecodedChunk(msgspec.Struct):
    """The events of a chunk.

    Attributes:
        ids: The ids of the events: integers or text.
        events: The events; an Arrow table of them for a handler of frames, if the chunk has Arrow columns.
        row: Returns the row of an event, by its number, as JSON.
        rejected: The rows that are no valid events.
        build_events: Builds a list of the events, where `events` is a table.
    """

    ids: Values
    events: Any
    row: Callable[[int], str]
    rejected: list[RejectedRow]
    build_events: Callable[[], list[Any]] | None = None

    def event_list(self, start: int, stop: int) -> list[Any]:
        """Return the events from `start` up to `stop` as a list."""
        if self.build_events is not None:
            self.events, self.build_events = self.build_events(), None
        events: list[Any] = self.events[start:stop]
        return events


class ChunkDecoder:
    """Decodes the chunks of one source for one handler.

    Args:
        builder: Builds the events.
        event_type: The type of one event.
        id_column: The field of a JSON line that is its id.
        frame: The frame that the handler takes; None for a handler of events.
    """

    def __init__(
        self, builder: EventBuilder, event_type: Any, id_column: str, frame: FrameType | None = None
    ) -> None:
        self._builder = builder
        self._id_column = id_column
        self._frame = frame
        self._decode = msgspec.json.Decoder(event_type).decode
        only_id = msgspec.defstruct("OnlyId", [("id", Any)], rename={"id": id_column})
        self._decode_id: Callable[[bytes], Any] = msgspec.json.Decoder(only_id).decode

    def decode(self, chunk: RowChunk) -> DecodedChunk:
        """Build the events of a chunk, and reject the rows that are none."""
        if chunk.lines is not None:
            return self._decode_lines(chunk, chunk.lines)
        if self._frame is not None and (decoded := self._cast_table(chunk, self._frame)) is not None:
            return decoded
        columns = {name: as_list(column) for name, column in chunk.columns.items()}
        ids, one_missing = normalize_ids(chunk.ids)
        rows = len(chunk.ids)
        if not one_missing:
            try:
                events = self._builder.events(columns, rows)
            except DecodeError:
                pass
            else:
                return DecodedChunk(ids, events, _row_of(columns, range(rows)), list(chunk.rejected))
        return self._decode_each_row(chunk, columns, as_list(ids))

    def _cast_table(self, chunk: RowChunk, frame: FrameType) -> DecodedChunk | None:
        """Arrow columns as a table; None if they are not Arrow's, or a row is no valid event."""
        ids, one_missing = normalize_ids(chunk.ids)
        arrow = all(hasattr(column, "to_pylist") for column in chunk.columns.values())
        if one_missing or not chunk.columns or not arrow:
            return None
        import pyarrow as pa  # noqa: PLC0415 - the columns are pyarrow's, so it is installed

        try:
            table = cast_table(pa.table(dict(chunk.columns)), frame.columns)
        except DecodeError:
            return None

        def build_events() -> list[Any]:
            columns = {name: as_list(column) for name, column in chunk.columns.items()}
            return self._builder.events(columns, len(table))

        def row(event: int) -> str:
            cells = {name: as_list(column[event : event + 1])[0] for name, column in chunk.columns.items()}
            return _row_text(cells)

        return DecodedChunk(ids, table, row, list(chunk.rejected), build_events)

    def _decode_each_row(
        self, chunk: RowChunk, columns: Mapping[str, list[Any]], ids: list[Any]
    ) -> DecodedChunk:
        rejected = list(chunk.rejected)
        kept: list[int] = []
        events: list[Any] = []
        for number, row in enumerate(split_rows(columns, len(ids))):
            try:
                self._require_id(ids[number])
                events.append(self._builder.event(row))
                kept.append(number)
            except DecodeError as exc:
                rejected.append(_rejected(_label(chunk, number, ids[number]), exc, _row_text(row)))
        return DecodedChunk([ids[number] for number in kept], events, _row_of(columns, kept), rejected)

    def _decode_lines(self, chunk: RowChunk, lines: Sequence[bytes]) -> DecodedChunk:
        try:
            events, ids = list(map(self._decode, lines)), [one.id for one in map(self._decode_id, lines)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._decode_each_line(chunk, lines)
        if set(map(type, ids)) <= {str} or set(map(type, ids)) <= {int}:
            return DecodedChunk(ids, events, lambda event: _line_text(lines[event]), list(chunk.rejected))
        return self._decode_each_line(chunk, lines)

    def _decode_each_line(self, chunk: RowChunk, lines: Sequence[bytes]) -> DecodedChunk:
        rejected = list(chunk.rejected)
        kept: list[bytes] = []
        events: list[Any] = []
        ids: list[Any] = []
        for number, line in enumerate(lines):
            row_id = None
            try:
                row_id = self._decode_id(line).id
                self._require_id(row_id)
                event = self._decode(line)
            except (msgspec.DecodeError, DecodeError, UnicodeDecodeError, RecursionError) as exc:
                usable = None if isinstance(row_id, dict | list | bool) else row_id
                error = DecodeError(str(exc))
                rejected.append(_rejected(_label(chunk, number, usable), error, _line_text(line)))
                continue
            events.append(event)
            ids.append(row_id)
            kept.append(line)
        return DecodedChunk(normalize_ids(ids)[0], events, lambda event: _line_text(kept[event]), rejected)

    def _require_id(self, row_id: Any) -> None:
        if row_id is None or isinstance(row_id, dict | list | bool):
            shown = "null" if row_id is None else shorten(row_id)
            raise DecodeError(f"the row has no id: {self._id_column} is {shown}")


def _row_of(columns: Mapping[str, list[Any]], kept: Sequence[int]) -> Callable[[int], str]:
    return lambda event: _row_text({name: column[kept[event]] for name, column in columns.items()})


def _row_text(row: Mapping[str, Any]) -> str:
    """A row as JSON, shortened. A value that JSON cannot hold is shown as Python shows it."""
    try:
        return msgspec.json.encode(row, enc_hook=_builtin_or_repr).decode()[:MAX_ROW_TEXT]
    except (ValueError, TypeError, RecursionError):
        return msgspec.json.encode({name: ascii(value) for name, value in row.items()}).decode()[
            :MAX_ROW_TEXT
        ]


def _builtin_or_repr(value: Any) -> Any:
    try:
        return to_builtin(value)
    except TypeError:
        return repr(value)


def _line_text(line: bytes) -> str:
    return line.rstrip().decode(errors="backslashreplace")[:MAX_ROW_TEXT]


def _label(chunk: RowChunk, number: int, row_id: Any) -> str:
    """The row's id, or its location in the source if it has none."""
    if row_id is not None:
        return str(row_id)
    if chunk.labels is not None:
        return chunk.labels[number]
    return f"row {chunk.done - len(chunk.ids) + number + 1}"


def _rejected(row_id: str, error: DecodeError, row: str) -> RejectedRow:
    return RejectedRow(row_id, "DecodeError", describe(error).removeprefix("DecodeError: "), row)
