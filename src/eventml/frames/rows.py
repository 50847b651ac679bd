"""What a handler returned as columns, as a list with a value or a row for each event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import inspect

from eventml.errors import MissingExtraError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable


def listed(outputs: Any, output_type: Any, *, checks_index: bool) -> Any:
    """Outputs as a list, if they are a frame, a table, a Series, or an array of any kind; else as they are.

    The rows of a frame or a table are converted to the output type, by the names that its fields have or
    travel under; without a type they are dicts. What a library calls missing is None. A float that is NaN
    stays NaN, which no output may hold: a model that answers NaN has failed, whatever the library says. Only
    where the output's field is an int is it missing, as pandas has ints.

    Args:
        outputs: What a handler returned.
        output_type: What one row becomes; `Any` for a dict.
        checks_index: Whether a pandas index other than 0 to n-1 is an error. It is for a handler that
            was given that index, and whose rows then came in another order, or not from there.

    Raises:
        OutputError: the index is not 0 to n-1; or a row is not of the output type, or has a column more.
    """
    library, _, _ = type(outputs).__module__.partition(".")
    if library not in _LISTS:
        return outputs.tolist() if hasattr(outputs, "tolist") else outputs
    if library == "pandas" and checks_index:
        _check_index(outputs)
    column_names = getattr(outputs, "column_names", getattr(outputs, "columns", None))
    try:
        if column_names is None:
            return _LISTS[library](outputs)
        names = _names(column_names)
        columns = [_LISTS[library](outputs[name]) for name in names]
    except (ValueError, TypeError, OverflowError) as exc:
        raise OutputError(f"a column that was returned cannot be read: {exc}") from exc
    return _rows(names, columns, output_type)


def _check_index(outputs: Any) -> None:
    index = getattr(outputs, "index", None)
    if index is None or len(index) == 0:
        return
    if type(index).__name__ == "RangeIndex":
        kept = index.start == 0 and index.step == 1
    else:
        kept = index.tolist() == list(range(len(index)))
    if not kept:
        raise OutputError(
            "the index of what was returned is not 0 to n-1 any more, and outputs go to their events by "
            "position: return the rows of the given frame in their order, or .reset_index(drop=True) where "
            "they are"
        )


def _names(column_names: Iterable[Any]) -> list[str]:
    names = list(column_names)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise OutputError(f"each column that is returned needs a name, and one of its own; not {names}")
    return names


def _rows(names: list[str], columns: list[list[Any]], output_type: Any) -> list[Any]:
    if output_type is not Any:
        fields = _fields(names, output_type)
        names = [field.encode_name for field in fields]
        columns = [
            _whole(column) if _is_whole(field.type) else column
            for field, column in zip(fields, columns, strict=True)
        ]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    if output_type is Any:
        return rows
    try:
        converted: list[Any] = msgspec.convert(rows, list[output_type])
    except msgspec.ValidationError as exc:
        raise OutputError(f"a row that was returned is no {_shown(output_type)}: {exc}") from exc
    return converted


def _fields(names: list[str], output_type: Any) -> list[inspect.Field]:
    """The output type's fields that the columns are."""
    fields: tuple[inspect.Field, ...] = getattr(inspect.type_info(output_type), "fields", ())
    if not fields:
        raise OutputError(
            f"a frame was returned where {_shown(output_type)} is the type of one output: a frame's rows "
            "become a type with fields"
        )
    known = {field.encode_name: field for field in fields} | {field.name: field for field in fields}
    if unknown := [name for name in names if name not in known]:
        raise OutputError(
            f"the columns {', '.join(unknown)} were returned, which {_shown(output_type)} has no fields for; "
            "leave them out"
        )
    chosen = [known[name] for name in names]
    if len({field.name for field in chosen}) < len(chosen):
        raise OutputError(
            f"the columns {', '.join(names)} were returned, two of which are one field; leave one out"
        )
    return chosen


def _is_whole(type_: inspect.Type) -> bool:
    kinds = type_.types if isinstance(type_, inspect.UnionType) else (type_,)
    return {type(kind) for kind in kinds} - {inspect.NoneType} == {inspect.IntType}


def _whole(column: list[Any]) -> list[Any]:
    """Ints that pandas holds as floats, because some are missing, as ints and None."""
    if float not in set(map(type, column)):
        return column
    return [
        (None if value != value else int(value) if value.is_integer() else value)  # noqa: PLR0124 - as NaN alone
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
        import pyarrow as pa  # noqa: PLC0415 - only where such a column is returned
    except ImportError as exc:
        raise MissingExtraError("pandas", f"returning a column of {series.dtype}") from exc
    return _of_arrow(pa.array(series, from_pandas=True))


def _of_polars(series: Any) -> list[Any]:
    values: list[Any] = series.to_list()
    return values


def _of_arrow(array: Any) -> list[Any]:
    import pyarrow as pa  # noqa: PLC0415 - only where an Arrow column is returned

    # What is finer than a microsecond has no place in a datetime.
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    elif pa.types.is_duration(array.type):
        array = array.cast(pa.duration("us"), safe=False)
    values: list[Any] = array.to_pylist()
    return values


_LISTS: Final = {"pandas": _of_pandas, "polars": _of_polars, "pyarrow": _of_arrow}
