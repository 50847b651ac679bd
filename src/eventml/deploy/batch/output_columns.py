"""The columns of a predictor's output: their names, their kinds and their values, checked."""

from __future__ import annotations

import math
import types
from operator import attrgetter, itemgetter
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    TypeAlias,
    Union,
    get_args,
    get_origin,
)

import msgspec

from eventml.codec import shorten
from eventml.errors import DecodeError, OutputError
from eventml.event_types import fields_of, to_builtin
from eventml.runtime import OutputChecks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Values: TypeAlias = Any
"""The values of one column, one for each row: a list, a pyarrow Array or ChunkedArray, or a numpy array."""

ColumnKind = Literal["int", "float", "bool", "text", "json"]

VALUE: Final = "value"
"""The column of a predictor that returns bare numbers or texts."""

PREDICTION_COLUMNS: Final = ("id", "prediction_id", "predictor", "model", "model_version")
"""The columns that every prediction has. A field of the output of such a name becomes `output_<name>`.

Here, and where two fields have one name, upper and lower case are the same, as in SQLite, DuckDB and Spark.
"""

_RENAMED: Final = "output_"

_WIDE_TYPES: Final = {
    **dict.fromkeys(("float16", "float32", "float64"), "f8"),
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"), "i8"),
}
"""The numpy types whose numbers a column of 64 bits holds unchanged, and the type of that column."""

_KINDS: Final[dict[Any, ColumnKind]] = {int: "int", float: "float", bool: "bool", str: "text"}
_TEXT_TYPES: Final = {"datetime", "date", "time", "timedelta", "Decimal", "UUID", "bytes", "bytearray"}


class OutputColumn(msgspec.Struct, frozen=True):
    """One column of the output.

    Attributes:
        name: The column's name.
        source: The output's attribute or key that the column holds; empty for the output itself.
        kind: What the column holds. Times, decimals and bytes are the text that a stream carries; lists
            and objects are JSON.
    """

    name: str
    source: str
    kind: ColumnKind

    @property
    def field(self) -> str:
        """The name of the output's field in JSON."""
        field = self.name.removeprefix(_RENAMED)
        return field if field.lower() in PREDICTION_COLUMNS else self.name


OutputSchema: TypeAlias = tuple[OutputColumn, ...]
"""The columns of a predictor's output, without those that every prediction has."""


def single_column(kind: ColumnKind) -> OutputSchema:
    """Return the schema of bare values."""
    return (OutputColumn(VALUE, "", kind),)


def schema_of_type(output_type: Any) -> OutputSchema | None:
    """Return the columns of an annotated output; None if the annotation does not tell.

    Raises:
        OutputError: Two fields would be columns of one name.
    """
    if output_type in _KINDS:
        return single_column(_KINDS[output_type])
    fields = fields_of(output_type)
    if fields is None:
        return None
    return _named((shown, name, column_kind(kind)) for shown, name, kind in fields)


def schema_of_outputs(outputs: Values) -> OutputSchema:
    """Return the columns of outputs without an annotation, named by the first one; none of them is None."""
    if not isinstance(outputs, list):
        return single_column("float" if outputs.dtype.kind == "f" else "int")
    first = outputs[0]
    if isinstance(first, dict) and all(isinstance(name, str) for name in first):
        rows = [one for one in outputs if isinstance(one, dict)]
        return _named((name, name, _kind_of([row.get(name) for row in rows])) for name in first)
    found = schema_of_type(type(first))
    return found if found and found[0].source else single_column(_kind_of(outputs))


def column_kind(annotation: Any) -> ColumnKind:
    """Return the kind of a field by its type: `float | None` and `Annotated[float, ...]` are floats too."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return column_kind(args[0])
    if origin in (Union, types.UnionType, Literal):
        members = map(type, args) if origin is Literal else args
        kinds = {column_kind(one) for one in members if one is not type(None)}
        # A column of floats would turn the 2 of an int | float into 2.0.
        return kinds.pop() if len(kinds) == 1 else "json"
    if annotation in _KINDS:
        return _KINDS[annotation]
    return "text" if getattr(annotation, "__name__", "") in _TEXT_TYPES else "json"


def check_outputs(checks: OutputChecks, outputs: Any, inputs: int) -> Values:
    """Check the outputs of one call; return an array of numbers as one of 64 bits each, all else as a list.

    Raises:
        OutputError: The outputs are invalid.
    """
    dtype = getattr(outputs, "dtype", None)
    if type(outputs).__name__ == "ndarray" and outputs.ndim == 1 and str(dtype) in _WIDE_TYPES:
        checks.check_length(outputs, inputs)
        wide = outputs.astype(_WIDE_TYPES[str(dtype)], copy=False)
        if math.isfinite(wide.sum()):  # the sum is finite only if each number is
            return wide
    return list(checks.check(outputs, inputs).values)


def split_columns(outputs: Values, schema: OutputSchema) -> list[Values]:
    """Return the values of checked outputs by column. There is an output, and none is None.

    Raises:
        OutputError: An output lacks one of the columns, or has a value of another kind there.
    """
    if not isinstance(outputs, list):
        return [outputs]
    get: Any = itemgetter if isinstance(outputs[0], dict) else attrgetter
    try:
        return [
            column_values(list(map(get(c.source), outputs)) if c.source else outputs, c.kind) for c in schema
        ]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as exc:
        columns = ", ".join(f"{column.name} ({column.kind})" for column in schema)
        raise OutputError(f"the output does not have the columns {columns}: {exc!r:.500}") from exc


def column_values(values: Sequence[Any], kind: ColumnKind) -> Sequence[Any]:
    """Convert values to what a column of this kind holds, as a stream's JSON has them; None stays None.

    Values in a column of texts that are none become JSON.

    Raises:
        ValueError: A value is no number or truth value where the column holds those.
    """
    expected = {"int": int, "float": float, "bool": bool, "text": str}.get(kind)
    if expected is not None and set(map(type, values)) <= {expected, type(None)}:
        return values
    builtin = [
        value if value is None else msgspec.to_builtins(value, enc_hook=to_builtin) for value in values
    ]
    if kind in ("json", "text"):
        encode = msgspec.json.Encoder().encode
        texts = (type(None),) if kind == "json" else (type(None), str)
        return [value if isinstance(value, texts) else encode(value).decode() for value in builtin]
    return [value if value is None else _number(value, kind) for value in builtin]


def _number(value: Any, kind: ColumnKind) -> Any:
    if kind == "float" and type(value) in (int, float):
        return float(value)
    if kind == "int" and type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not (int if kind == "int" else bool):
        raise ValueError(f"{shorten(value)} is no {kind}")
    return value


def _kind_of(values: Sequence[Any]) -> ColumnKind:
    kinds: set[ColumnKind] = {_KINDS.get(type(value), "json") for value in values if value is not None}
    if kinds == {"int", "float"}:
        return "float"
    return kinds.pop() if len(kinds) == 1 else "json"


def _named(fields: Iterable[tuple[str, str, ColumnKind]]) -> OutputSchema:
    """Columns of fields, which are given by their name in JSON, their source and their kind."""
    columns: dict[str, OutputColumn] = {}
    for field, source, kind in fields:
        name = f"{_RENAMED}{field}" if field.lower() in PREDICTION_COLUMNS else field
        other = columns.setdefault(name.lower(), column := OutputColumn(name, source, kind))
        if other is not column:
            raise OutputError(
                f"the output's fields {other.source!r} and {source!r} would be columns of one name, "
                f"{other.name} and {name}: databases do not tell upper from lower case. Rename one"
            )
    return tuple(columns.values())


def as_list(column: Values) -> list[Any]:
    """Return a column's values as Python objects, none changed.

    A time finer than a microsecond, which Python cannot hold, becomes the text that a stream would carry.
    """
    if isinstance(column, list):
        return column
    if not hasattr(column, "to_pylist"):
        return list(column.tolist() if hasattr(column, "tolist") else column)
    import pyarrow as pa  # noqa: PLC0415 - the column is pyarrow's, so it is installed

    if pa.types.is_dictionary(column.type) and not pa.types.is_string_view(column.type.value_type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        try:
            column = column.cast(pa.timestamp("us", column.type.tz))
        except pa.ArrowInvalid:
            column = column.cast(pa.string())
    values: list[Any] = column.to_pylist()
    if pa.types.is_map(column.type):
        return [one if one is None else dict(one) for one in values]
    return values


def readable_values(column: Values) -> list[Any]:
    """Return a column as `as_list` does, with a DecodeError in the place of each value it cannot convert."""
    try:
        return as_list(column)
    except (ValueError, OverflowError) as exc:
        if len(column) == 1:
            return [DecodeError(f"a value cannot be read: {exc}")]
        return [readable_values(column[number : number + 1])[0] for number in range(len(column))]


def take(column: Values, positions: Sequence[int]) -> Values:
    """Return the values of a list or a pyarrow array at these positions."""
    if isinstance(column, list):
        return [column[position] for position in positions]
    import pyarrow as pa  # noqa: PLC0415 - the column is pyarrow's, so it is installed

    try:
        return column.take(pa.array(positions, pa.int64()))
    except pa.ArrowNotImplementedError:  # string_view, which polars and DuckDB give, and others
        return take(readable_values(column), positions)
