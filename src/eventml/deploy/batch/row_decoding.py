"""Rows to events: which columns an event needs, and building events of columns, rows and JSON lines.

A whole column is checked against its field's type at once, and the events are built column by column:
the same checks as one by one, in a tenth of the time. If one row is invalid, the rows are converted one
by one, so that only the invalid ones are rejected.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import repeat
from typing import Any, Final

import msgspec

from eventml.codec import shorten
from eventml.deploy.batch.chunks import (
    MAX_ROW_TEXT,
    RejectedRow,
    RowChunk,
    is_storable,
    normalize_ids,
)
from eventml.deploy.batch.csv_reader import value_of_cell, value_of_type
from eventml.deploy.batch.output_columns import Values, as_list, column_kind, readable_values
from eventml.errors import DecodeError, SourceError
from eventml.event_types import convert, fields_of, json_decoder
from eventml.frames import FrameType, cast_table
from eventml.runtime import describe

_UNTYPED: Final = (Any, dict, dict[str, Any])


class DecodedChunk(msgspec.Struct):
    """The events of a chunk.

    Attributes:
        ids: The ids of the events: integers or text.
        events: The events; an Arrow table of them for a handler of frames, if the chunk has Arrow columns.
        row: Returns the row of an event, by its number, as JSON.
        rejected: The rows that are no valid events.
    """

    ids: Values
    events: Any
    row: Callable[[int], str]
    rejected: list[RejectedRow]


class RowDecoder:
    """Decodes the rows of one source to the events of one handler.

    Args:
        event_type: The type of one event: a Struct, a dataclass, a TypedDict, `dict`, `Any`.
        id_column: The field of a JSON line that is its id.
        frame: The frame that the handler takes; None for a handler of events.
        from_text: Whether the values are the cells of a CSV: each is converted to its field's type, also as
            `csv_reader.value_of_type` says, or where that is not known as `csv_reader.value_of_cell` says.
    """

    def __init__(
        self,
        event_type: Any,
        id_column: str = "id",
        *,
        frame: FrameType | None = None,
        from_text: bool = False,
        strict: bool = True,
    ) -> None:
        self._type = event_type
        self._id_column = id_column
        self._frame = frame
        self._from_text = from_text
        self._strict = strict and not from_text
        self._fields = _fields(event_type)
        self._types = {name: type_ for name, _, type_ in fields_of(event_type) or ()}
        self._columnwise = self._fields is not None and _is_positional(event_type)
        self._decode_line = json_decoder(event_type, strict=strict)
        only_id = msgspec.defstruct("OnlyId", [("id", Any)], rename={"id": id_column})
        self._decode_id: Callable[[bytes], Any] = msgspec.json.Decoder(only_id).decode

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
                f"{', '.join(available)}. Rename it, by --query or before: SELECT ... AS {missing[0]}"
            )
        return [name for name in available if name in self._fields]

    def decode(self, chunk: RowChunk) -> DecodedChunk:
        """Build the events of a chunk, and reject the rows that are none."""
        if chunk.lines is not None:
            return self._decode_lines(chunk, chunk.lines)
        ids, one_invalid = normalize_ids(chunk.ids)
        row = row_texts(chunk)
        if not one_invalid:
            with suppress(Exception):  # a row is invalid: convert them one by one
                events = self._cast_table(chunk.columns)
                if events is None:
                    events = self.events(chunk)
                return DecodedChunk(ids, events, row, list(chunk.rejected))
        rows = split_rows(self._as_lists(chunk.columns), len(chunk.ids))

        def get_event(number: int) -> Any:
            return self._event(rows[number])

        return self._decode_each(chunk, as_list(ids).__getitem__, get_event, row)

    def _cast_table(self, columns: Mapping[str, Values]) -> Any:
        """The columns as a table for a handler of frames; None for other handlers, and for lists."""
        arrow = columns and all(hasattr(column, "to_pylist") for column in columns.values())
        if self._frame is None or not arrow:
            return None
        import pyarrow as pa  # noqa: PLC0415 - the columns are pyarrow's, so it is installed

        return cast_table(pa.table(dict(columns)), self._frame.columns)

    def _decode_lines(self, chunk: RowChunk, lines: Sequence[bytes]) -> DecodedChunk:
        def get_id(number: int) -> Any:
            return self._decode_id(lines[number]).id

        row = row_texts(chunk)
        with suppress(Exception):  # as above
            events, ids = list(map(self._decode_line, lines)), list(map(get_id, range(len(lines))))
            same_type = set(map(type, ids)) <= {str} or set(map(type, ids)) <= {int}
            if same_type and not normalize_ids(ids)[1]:
                return DecodedChunk(ids, events, row, list(chunk.rejected))
        return self._decode_each(chunk, get_id, lambda number: self._decode_line(lines[number]), row)

    def _decode_each(
        self,
        chunk: RowChunk,
        get_id: Callable[[int], Any],
        get_event: Callable[[int], Any],
        row: Callable[[int], str],
    ) -> DecodedChunk:
        """Decode the rows one by one, and reject the invalid ones."""
        rejected = list(chunk.rejected)
        size = len(chunk) - len(rejected)
        kept: list[int] = []
        events: list[Any] = []
        ids: list[Any] = []
        for number in range(size):
            row_id = None
            try:
                row_id = get_id(number)
                self._check_id(row_id)
                events.append(get_event(number))
            except Exception as exc:  # noqa: BLE001 - validators of the event's class may raise anything
                unknown = row_id is None or isinstance(row_id, dict | list | bool)
                shown = chunk.label(number) if unknown else str(row_id)
                text = str(exc) if isinstance(exc, DecodeError | ValueError) else describe(exc)
                reason = describe(DecodeError(text)).removeprefix("DecodeError: ")
                rejected.append(RejectedRow(shown, "DecodeError", reason, row(number)))
            else:
                ids.append(row_id)
                kept.append(number)
        return DecodedChunk(normalize_ids(ids)[0], events, lambda event: row(kept[event]), rejected)

    def ids(self, chunk: RowChunk) -> list[str | None]:
        """Return the ids of a chunk's rows as text, None where one is missing or cannot be read."""
        if chunk.lines is None:
            found = as_list(normalize_ids(chunk.ids)[0])
            if set(map(type, found)) <= {str}:
                return found
            return [None if one is None else str(one) for one in found]
        ids: list[str | None] = [None] * len(chunk.lines)
        for number, line in enumerate(chunk.lines):
            with suppress(Exception):  # the line is rejected when it is decoded
                ids[number] = str(self._decode_id(line).id)
        return ids

    def _check_id(self, row_id: Any) -> None:
        if row_id is None or isinstance(row_id, dict | list | bool):
            raise DecodeError(
                f"the row has no id: {self._id_column} is {'null' if row_id is None else shorten(row_id)}"
            )
        if isinstance(row_id, int | str) and not is_storable(row_id):
            raise DecodeError("the row's id has a null character, or is an integer of over 64 bits")

    def events(self, chunk: RowChunk) -> list[Any]:
        """Build the events of a chunk of columns.

        Raises:
            DecodeError: a row is invalid.
        """
        try:
            rows, lists = len(chunk.ids), self._as_lists(chunk.columns)
            columns = {name: self._as_json(name, values) for name, values in lists.items()}
            if self._fields is not None and self._columnwise and columns.keys() <= self._fields.keys():
                values = [self._column(field, columns, rows) for field in self._fields.values()]
                return list(map(self._type, *values)) if values else [self._type() for _ in range(rows)]
            return [self._convert(row) for row in split_rows(columns, rows)]
        except Exception as exc:
            raise DecodeError(str(exc)) from exc

    def event(self, row: Mapping[str, str]) -> Any:
        """Build the event of the cells of a CSV's row. Raises what validators of the event's class raise."""
        lists = self._as_lists({name: [cell if cell.strip() else None] for name, cell in row.items()})
        return self._event({name: values[0] for name, values in lists.items()})

    def _event(self, row: Mapping[str, Any]) -> Any:
        return self._convert({name: self._as_json(name, [value])[0] for name, value in row.items()})

    def _as_lists(self, columns: Mapping[str, Values]) -> dict[str, list[Any]]:
        """The columns as lists, with the values of cells whose type is not known."""
        lists = {name: readable_values(column) for name, column in columns.items()}
        if self._from_text:
            for name, cells in lists.items():
                if self._type_of(name) in _UNTYPED:
                    lists[name] = [None if cell is None else value_of_cell(cell) for cell in cells]
        return lists

    def _as_json(self, name: str, values: list[Any]) -> list[Any]:
        """The values of a column without a type as those of JSON; those of any other column as they are."""
        if self._from_text or self._type_of(name) not in _UNTYPED:
            return values
        return json_values(values)

    def _convert(self, row: Mapping[str, Any]) -> Any:
        try:
            return convert(row, self._type, strict=self._strict)
        except msgspec.ValidationError:
            converted = {name: self._loosely(value, self._type_of(name)) for name, value in row.items()}
            return convert(converted, self._type, strict=self._strict)

    def _loosely(self, value: Any, expected: Any) -> Any:
        if self._from_text and isinstance(value, str):
            return value_of_type(value, expected)
        return as_json_value(value, expected)

    def _type_of(self, name: str) -> Any:
        """The type of a field; that of the event where its fields are not known."""
        return self._types.get(name, self._type)

    def _column(self, field: msgspec.structs.FieldInfo, columns: Mapping[str, list[Any]], rows: int) -> Any:
        if field.encode_name not in columns:
            if field.default_factory is msgspec.NODEFAULT:
                return repeat(field.default, rows)
            return [field.default_factory() for _ in range(rows)]
        values, expected = columns[field.encode_name], types.GenericAlias(list, (field.type,))
        try:
            return msgspec.convert(values, expected, strict=self._strict)
        except msgspec.ValidationError:
            converted = [self._loosely(value, field.type) for value in values]
            return msgspec.convert(converted, expected, strict=self._strict)


def split_rows(columns: Mapping[str, list[Any]], rows: int) -> list[dict[str, Any]]:
    """Return the rows of some columns."""
    if not columns:
        return [{} for _ in range(rows)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def json_values(values: list[Any]) -> list[Any]:
    """Convert values to those that a stream's JSON of them gives to a handler of untyped events.

    Decimals are numbers there, and what JSON does not know is the text that Python shows.

    Raises:
        DecodeError: A value could not be read, or JSON cannot hold it.
    """
    finite = [None if isinstance(one, Decimal) and not one.is_finite() else one for one in values]
    try:
        found: list[Any] = _decode_json(_encode_json(finite))
    except Exception as exc:
        raise DecodeError(str(exc)) from exc
    return found


def _to_text(value: Any) -> str:
    if isinstance(value, DecodeError):  # in the place of a value that could not be read
        raise value
    return str(value)


_encode_json = msgspec.json.Encoder(enc_hook=_to_text, decimal_format="number").encode
_decode_json = msgspec.json.Decoder().decode


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
    return value if isinstance(value, bytes) else msgspec.to_builtins(value, enc_hook=_to_text)


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


def row_texts(chunk: RowChunk) -> Callable[[int], str]:
    """The function that returns a row as JSON, shortened; what JSON cannot hold as Python shows it."""
    columns, lines = chunk.columns, chunk.lines

    def row(number: int) -> str:
        if lines is not None:
            return lines[number].rstrip().decode(errors="backslashreplace")[:MAX_ROW_TEXT]
        cells = {name: readable_values(column[number : number + 1])[0] for name, column in columns.items()}
        try:
            text = msgspec.json.encode(cells, enc_hook=repr)
        except (ValueError, TypeError, RecursionError):
            text = msgspec.json.encode({name: ascii(value) for name, value in cells.items()})
        return text.decode()[:MAX_ROW_TEXT]

    return row
