"""Columns as lists and as text, wherever they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.deploy.batch.chunks import Column


def as_list(column: Column) -> list[Any]:
    """A column's values as Python's, none changed.

    A time finer than Python's is the text that a stream would carry.
    """
    if isinstance(column, list):
        return column
    if not hasattr(column, "to_pylist"):
        return list(column.tolist() if hasattr(column, "tolist") else column)
    import pyarrow as pa  # noqa: PLC0415 - whoever has such a column has it

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return _of_nanoseconds(column)
    values: list[Any] = column.to_pylist()
    return values


def _of_nanoseconds(column: Any) -> list[Any]:
    import pyarrow as pa  # noqa: PLC0415 - whoever has such a column has it

    try:
        values: list[Any] = column.cast(pa.timestamp("us", column.type.tz)).to_pylist()
    except pa.ArrowInvalid:
        values = column.cast(pa.string()).to_pylist()
    return values


def texts(ids: Sequence[Any]) -> list[str]:
    """Ids as text, as a producer would send them."""
    return [one if type(one) is str else str(one) for one in ids]


def json_texts(values: Sequence[Any]) -> list[str | None]:
    """Values as JSON, None left as it is."""
    encode = msgspec.json.Encoder().encode
    return [None if value is None else encode(value).decode() for value in values]


def take(column: Column, positions: Sequence[int]) -> Column:
    """The column's values at these positions."""
    if isinstance(column, list):
        return [column[position] for position in positions]
    if hasattr(column, "take") and hasattr(column, "to_pylist"):
        import pyarrow as pa  # noqa: PLC0415 - whoever has such a column has it

        return column.take(pa.array(positions, pa.int64()))
    return column[list(positions)]


def cut(rows: Any, start: int, stop: int) -> Any:
    """The rows from one position up to another, of a list or of an Arrow table."""
    return rows.slice(start, stop - start) if hasattr(rows, "slice") else rows[start:stop]


def joined(columns: Sequence[Column]) -> Column:
    """Columns end to end."""
    if len(columns) == 1:
        return columns[0]
    return [value for column in columns for value in as_list(column)]
