"""Events and foreign tables as an Arrow table of the schema that the event's type says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from eventml.frames.columns import Column, Form

_TYPES: Final[dict[Form, Callable[[Any], Any]]] = {
    "int": lambda pa: pa.int64(),
    "float": lambda pa: pa.float64(),
    "bool": lambda pa: pa.bool_(),
    "str": lambda pa: pa.string(),
    "bytes": lambda pa: pa.binary(),
    "datetime": lambda pa: pa.timestamp("us"),
    "utc": lambda pa: pa.timestamp("us", tz="UTC"),
    "date": lambda pa: pa.date32(),
    "time": lambda pa: pa.time64("us"),
    "timedelta": lambda pa: pa.duration("us"),
}


def schema_of(columns: Sequence[Column], *, as_sent: bool = False) -> pa.Schema:
    """The schema of a frame; only the fields that may be None can be null.

    Args:
        columns: Of the event's type.
        as_sent: Name them as the fields travel, as in a table to be read, and not as the type has them.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where a handler takes frames

    return pa.schema(
        [
            pa.field(
                column.source if as_sent else column.name, _TYPES[column.form](pa), nullable=column.nullable
            )
            for column in columns
        ]
    )


def table_of(events: Sequence[Any], columns: Sequence[Column], schema: pa.Schema) -> pa.Table:
    """The events as a table.

    Raises:
        DecodeError: a value has no place in its column (an int beyond 64 bits, a time with an offset in a
            column without); names the column.
    """
    import pyarrow as pa  # noqa: PLC0415 - as above

    arrays = []
    for column, field in zip(columns, schema, strict=True):
        values = list(map(column.get, events))
        arrays.append(_array(pa, column, field.type, values))
    return pa.Table.from_arrays(arrays, schema=schema)


def cast_table(table: pa.Table, columns: Sequence[Column], schema: pa.Schema) -> pa.Table:
    """A table that was read somewhere, as a table of the events that its rows are.

    Its columns are found by the names that the fields travel under; others are ignored, and a column
    that is lacking is filled with its field's default. A column that has the right form already is taken as
    it is; any other is converted value by value, as a row of text or of JSON would be.

    Raises:
        DecodeError: a column is lacking, or a value of some row is not of its field's type, its
            constraints included; names the column, and not the row. Rows can then be taken one by one.
    """
    import pyarrow as pa  # noqa: PLC0415 - as above

    arrays = [_cast(pa, table, column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(pa: Any, column: Column, type_: Any, values: list[Any]) -> Any:
    try:
        if column.plain is not None:
            values = [None if value is None else column.plain(value) for value in values]
        return pa.array(values, type_)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as exc:
        raise DecodeError(f"{column.name}: a value has no place in a column of {type_}: {exc}") from exc


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
    if not _has_form(pa, column.form, found.type) or column.plain is str:
        return _array(pa, column, type_, _converted(column, found))
    if found.null_count and not column.nullable:
        raise DecodeError(f"{column.source}: {found.null_count} of {len(found)} values are null")
    if column.constrained:
        _converted(column, found.unique())
    try:
        return found.cast(type_, safe=column.form == "int")
    except pa.ArrowException as exc:
        raise DecodeError(f"{column.source}: a value has no place in a column of {type_}: {exc}") from exc


def _converted(column: Column, values: Any) -> list[Any]:
    """The values as the codec would have them, one by one."""
    expected = column.type | None if column.nullable else column.type
    try:
        converted: list[Any] = msgspec.convert(values.to_pylist(), list[expected], strict=False)  # type: ignore[valid-type]  # known at run time only
    except msgspec.ValidationError as exc:
        raise DecodeError(f"{column.source}: {exc}") from exc
    return converted


def _has_form(pa: Any, form: Form, type_: Any) -> bool:
    """Whether Arrow casts such a column to the form just as the codec would convert its values."""
    kinds = pa.types
    checks: dict[Form, bool] = {
        "int": kinds.is_integer(type_),
        "float": kinds.is_floating(type_) or kinds.is_integer(type_),
        "bool": kinds.is_boolean(type_),
        "str": kinds.is_string(type_) or kinds.is_large_string(type_),
        "bytes": kinds.is_binary(type_) or kinds.is_large_binary(type_),
        "datetime": kinds.is_timestamp(type_) and type_.tz is None,
        "utc": kinds.is_timestamp(type_) and type_.tz is not None,
        "date": kinds.is_date32(type_),
        "time": kinds.is_time(type_),
        "timedelta": kinds.is_duration(type_),
    }
    return checks[form]
