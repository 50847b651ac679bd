"""Returned frames, tables, Series and arrays as lists of outputs: one value or row for each event."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import inspect

from eventml.errors import MissingExtraError, OutputError


def outputs_to_list(outputs: Any, output_type: Any, *, check_index: bool) -> Any:
    """Outputs as a list, if they are a frame, a table, a Series or any array; otherwise unchanged.

    The rows of a frame or a table are converted to the output type, by the names or encoded names of its
    fields; without a type they become dicts. A library's missing value becomes None. A float NaN stays NaN,
    which the output check refuses: a model that predicts NaN has failed, whatever the library calls it. Only
    if the output's field is an int does NaN become None, because pandas represents nullable ints that way.

    Args:
        outputs: The handler's return value.
        output_type: Type of one row; `Any` for dicts.
        check_index: Whether to refuse a pandas object whose index is not 0 to n-1. True for a handler that
            got frames with that index: another index means reordered or dropped rows.

    Raises:
        OutputError: The index is not 0 to n-1, a row does not fit the output type, or has an extra column.
        MissingExtraError: A pandas column needs pyarrow, which is not installed.
    """
    library, _, _ = type(outputs).__module__.partition(".")
    if library not in _LISTS:
        return outputs.tolist() if hasattr(outputs, "tolist") else outputs
    if library == "pandas" and check_index:
        _check_index(outputs)
    column_names = getattr(outputs, "column_names", getattr(outputs, "columns", None))
    try:
        if column_names is None:
            return _LISTS[library](outputs)
        names = list(column_names)
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise OutputError(f"returned columns need unique names of type str, not {names}")
        columns = [_LISTS[library](outputs[name]) for name in names]
    except (ValueError, TypeError, OverflowError) as exc:
        raise OutputError(f"a returned column cannot be read: {exc}") from exc
    return _rows(names, columns, output_type)


def _check_index(outputs: Any) -> None:
    import pandas as pd  # noqa: PLC0415 - the outputs are of pandas

    index = getattr(outputs, "index", None)
    if index is not None and len(index) and not index.equals(pd.RangeIndex(len(index))):
        raise OutputError(
            "the returned index is not 0 to n-1, and outputs are assigned to events by position: return the "
            "rows in the order of the given frame (.sort_index()), or, if they are in that order, call "
            ".reset_index(drop=True)"
        )


def _rows(names: list[str], columns: list[list[Any]], output_type: Any) -> list[Any]:
    if output_type is not Any:
        fields = _fields(names, output_type)
        names = [field.encode_name for field in fields]
        columns = [_with_ints(column, field.type) for field, column in zip(fields, columns, strict=True)]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    if output_type is Any:
        return rows
    try:
        converted: list[Any] = msgspec.convert(rows, list[output_type])
    except msgspec.ValidationError as exc:
        raise OutputError(f"a returned row does not fit {_shown(output_type)}: {exc}") from exc
    return converted


def _fields(names: list[str], output_type: Any) -> list[inspect.Field]:
    """The fields of the output type for the named columns."""
    fields: tuple[inspect.Field, ...] = getattr(inspect.type_info(output_type), "fields", ())
    if not fields:
        raise OutputError(
            f"a frame was returned, but the output type {_shown(output_type)} has no fields for its columns: "
            "pass output_type=... with a type that has fields"
        )
    known = {field.encode_name: field for field in fields} | {field.name: field for field in fields}
    if unknown := [name for name in names if name not in known]:
        raise OutputError(
            f"{_shown(output_type)} has no fields for the returned columns {', '.join(unknown)}: drop them"
        )
    chosen = [known[name] for name in names]
    if len({field.name for field in chosen}) < len(chosen):
        raise OutputError(f"two of the returned columns {', '.join(names)} are the same field; leave one out")
    return chosen


def _with_ints(column: list[Any], type_: inspect.Type) -> list[Any]:
    """Nullable ints, which pandas represents as floats with NaN, as ints and None. Other columns stay."""
    kinds = {type(kind) for kind in (type_.types if isinstance(type_, inspect.UnionType) else (type_,))}
    if kinds - {inspect.NoneType} != {inspect.IntType} or float not in set(map(type, column)):
        return column
    return [
        (None if value != value else int(value) if value.is_integer() else value)  # noqa: PLR0124 - true for NaN only
        if type(value) is float
        else value
        for value in column
    ]


def _shown(type_: Any) -> str:
    return str(getattr(type_, "__name__", type_))


def _of_pandas(series: Any) -> list[Any]:
    if type(series.dtype).__module__.startswith("numpy") and series.dtype.kind not in "mM":
        values: list[Any] = series.tolist()
        return values
    try:
        import pyarrow as pa  # noqa: PLC0415 - only if such a column is returned
    except ImportError as exc:
        raise MissingExtraError("pandas", f"returning a column of {series.dtype}") from exc
    return _of_arrow(pa.array(series, from_pandas=True))


def _of_arrow(array: Any) -> list[Any]:
    import pyarrow as pa  # noqa: PLC0415 - only if an Arrow column is returned

    # A Python datetime has microseconds at most.
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    elif pa.types.is_duration(array.type):
        array = array.cast(pa.duration("us"), safe=False)
    values: list[Any] = array.to_pylist()
    return values


_LISTS: Final = {"pandas": _of_pandas, "polars": lambda series: series.to_list(), "pyarrow": _of_arrow}
