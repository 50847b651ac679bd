"""Events and tables as frames: both become an Arrow table with the schema of the event type, then a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.errors import DecodeError
from eventml.frames.columns import Column, Form, FrameType, Library

if TYPE_CHECKING:
    import pyarrow as pa

_FORMS: Final[dict[Form, tuple[Callable[[Any], Any], Callable[[Any, Any], bool]]]] = {
    "int": (lambda pa: pa.int64(), lambda kinds, t: kinds.is_integer(t)),
    "float": (lambda pa: pa.float64(), lambda kinds, t: kinds.is_floating(t) or kinds.is_integer(t)),
    "bool": (lambda pa: pa.bool_(), lambda kinds, t: kinds.is_boolean(t)),
    "str": (lambda pa: pa.string(), lambda kinds, t: kinds.is_string(t) or kinds.is_large_string(t)),
    "bytes": (lambda pa: pa.binary(), lambda kinds, t: kinds.is_binary(t) or kinds.is_large_binary(t)),
    "datetime": (lambda pa: pa.timestamp("us"), lambda kinds, t: kinds.is_timestamp(t) and t.tz is None),
    "utc": (
        lambda pa: pa.timestamp("us", "UTC"),
        lambda kinds, t: kinds.is_timestamp(t) and t.tz is not None,
    ),
    "date": (lambda pa: pa.date32(), lambda kinds, t: kinds.is_date32(t)),
    "time": (lambda pa: pa.time64("us"), lambda kinds, t: kinds.is_time(t)),
    "timedelta": (lambda pa: pa.duration("us"), lambda kinds, t: kinds.is_duration(t)),
}
"""Of each form, its Arrow type, and whether Arrow casts a type to it exactly as the codec converts values."""


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of columns. Only fields that may be None are nullable."""
    import pyarrow as pa  # noqa: PLC0415 - imported only if a handler takes frames

    return pa.schema(
        [pa.field(column.name, _FORMS[column.form][0](pa), nullable=column.nullable) for column in columns]
    )


def cast_table(table: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """A table that was read from a file or a database, with its columns converted to those of the event type.

    Columns are matched by the fields' encoded names; other columns are ignored, and a missing column is
    filled with its field's default. A column that has the right type already is taken as it is; another one
    is converted value by value, as text or JSON would be decoded.

    Raises:
        DecodeError: A column without a default is missing, or a value does not fit its field's type or
            constraints. The message names the column, not the row; converting row by row finds the row.
    """
    import pyarrow as pa  # noqa: PLC0415 - as above

    schema = schema_of(columns)
    arrays = [_cast(pa, table, column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(pa: Any, column: Column, type_: Any, values: list[Any]) -> Any:
    try:
        if column.to_plain is not None:
            values = [None if value is None else column.to_plain(value) for value in values]
        return pa.array(values, type_)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as exc:
        raise DecodeError(f"{column.name}: a value does not fit a column of {type_}: {exc}") from exc


def _cast(pa: Any, table: Any, column: Column, type_: Any) -> Any:
    if column.source not in table.column_names:
        if column.default is msgspec.NODEFAULT:
            raise DecodeError(
                f"there is no column {column.source!r}; there are: {', '.join(table.column_names) or 'none'}"
            )
        return _array(pa, column, type_, [column.default] * len(table))
    found = table.column(column.source)
    if pa.types.is_dictionary(found.type):
        found = found.cast(found.type.value_type)
    castable = _FORMS[column.form][1](pa.types, found.type)
    if not castable or column.to_plain is str:
        return _array(pa, column, type_, _converted(column, found))
    if found.null_count and not column.nullable:
        raise DecodeError(f"{column.source}: {found.null_count} of {len(found)} values are null")
    if column.constrained:
        _converted(column, found.unique())
    try:
        return found.cast(type_, safe=column.form == "int")
    except pa.ArrowException as exc:
        raise DecodeError(f"{column.source}: a value does not fit a column of {type_}: {exc}") from exc


def _converted(column: Column, values: Any) -> list[Any]:
    """The values converted one by one, as the codec would decode them."""
    expected = column.type | None if column.nullable else column.type
    try:
        converted: list[Any] = msgspec.convert(values.to_pylist(), list[expected], strict=False)  # type: ignore[valid-type]  # a type known only at run time
    except msgspec.ValidationError as exc:
        raise DecodeError(f"{column.source}: {exc}") from exc
    return converted


class FrameBuilder:
    """Builds the frames of a handler, from events or from tables: the same frame from either.

    Each frame is new, so the handler may change it. A pandas frame has the index 0 to n-1.

    Args:
        frame: Library and columns of the frames. The library is imported here.

    Attributes:
        from_table: Makes a frame of a table that `cast_table` returned, or of a slice of one. It raises
            DecodeError if an int does not fit the float64 of pandas; the message names the column.
    """

    def __init__(self, frame: FrameType) -> None:
        import pyarrow as pa  # noqa: PLC0415 - as above

        self._pa = pa
        self._columns = frame.columns
        self._schema: pa.Schema = schema_of(frame.columns)
        self.from_table: Callable[[pa.Table], Any] = _maker(frame.library)

    def from_events(self, events: Sequence[Any]) -> Any:
        """A frame with a row for each event, in their order.

        Raises:
            DecodeError: A value does not fit its column's type (an int beyond 64 bits, a time with an offset
                in a column without one); the message names the column.
        """
        arrays = [
            _array(self._pa, column, field.type, list(map(column.get, events)))
            for column, field in zip(self._columns, self._schema, strict=True)
        ]
        return self.from_table(self._pa.Table.from_arrays(arrays, schema=self._schema))


def _maker(library: Library) -> Callable[[pa.Table], Any]:
    """The function that makes a frame of a table."""
    if library == "pyarrow":
        return lambda table: table
    if library == "polars":
        import polars as pl  # noqa: PLC0415 - only if a handler takes such frames

        return pl.from_arrow
    import numpy as np  # noqa: PLC0415 - all three only if a handler takes such frames
    import pandas as pd  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    # The dtype that pandas itself uses for text: `str` since pandas 3, object before.
    text = pd.Series(["text"]).dtype
    texts = {} if text == np.dtype(object) else {pa.string(): text}

    def make(table: pa.Table) -> Any:
        nullable_bools = []
        for place, field in enumerate(table.schema):
            if field.nullable and pa.types.is_int64(field.type):
                table = table.set_column(place, pa.field(field.name, pa.float64()), _floats(pa, table, place))
            elif field.nullable and pa.types.is_boolean(field.type):
                nullable_bools.append(field.name)
        frame = table.to_pandas(types_mapper=texts.get, use_threads=False)
        for name in nullable_bools:  # object even if no value is None: the type decides, not the batch
            frame[name] = pd.Series(table.column(name).to_pylist(), dtype=object)
        return frame

    return make


def _floats(pa: Any, table: pa.Table, place: int) -> Any:
    """A column of nullable ints as pandas represents it: float64, with NaN for None."""
    try:
        return table.column(place).cast(pa.float64())
    except pa.ArrowInvalid as exc:
        raise DecodeError(
            f"{table.schema.field(place).name}: a value does not fit float64, which pandas uses for an "
            f"`int | None`: {exc}. A polars or Arrow frame has 64-bit ints"
        ) from exc
