"""Which columns an event is made of, and making events of columns.

A whole column is checked against its field's type at once, and the events are built column by column: the
same checks as one by one, and a tenth of the time. Where anything is wrong, the rows are taken one by
one, so that a bad one stands alone.
"""

from __future__ import annotations

import inspect
import types
from decimal import Decimal
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventml.deploy.batch.schema import kind_of
from eventml.errors import DecodeError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Shape:
    """How a row becomes an event.

    Args:
        event_type: The type of one event: a Struct, a dataclass, a TypedDict, `dict`, `Any`.
        text: Whether all values are text, as those of a CSV are, and are to be converted.
    """

    def __init__(self, event_type: Any, *, text: bool = False) -> None:
        self._type = event_type
        self._strict = not text
        self._fields = _fields(event_type)
        self._columnwise = self._fields is not None and _positional(event_type)

    def wanted(self, available: Sequence[str], source: object) -> list[str]:
        """The columns to read.

        Raises:
            SourceError: the source lacks one that the event must have.
        """
        if self._fields is None:
            return list(available)
        lacking = [name for name, field in self._fields.items() if field.required and name not in available]
        if lacking:
            kind = getattr(self._type, "__name__", self._type)
            raise SourceError(
                f"{source} has no column {', '.join(map(repr, lacking))}, which {kind} needs; there are: "
                f"{', '.join(available)}. Rename it in a view, or by --query: SELECT ... AS {lacking[0]}"
            )
        return [name for name in available if name in self._fields]

    def events(self, columns: Mapping[str, list[Any]], rows: int) -> list[Any]:
        """All rows as events.

        Raises:
            DecodeError: one of them does not fit: take them one by one.
        """
        try:
            if self._fields is not None and self._columnwise and columns.keys() <= self._fields.keys():
                checked = [self._column(field, columns, rows) for field in self._fields.values()]
                return list(map(self._type, *checked)) if checked else [self._type() for _ in range(rows)]
            return [self._convert(row) for row in self.rows(columns, rows)]
        except (msgspec.ValidationError, ValueError, TypeError) as exc:
            raise DecodeError(str(exc)) from exc

    def event(self, row: Mapping[str, Any]) -> Any:
        """One row as an event.

        Raises:
            DecodeError: it does not fit; says where.
        """
        try:
            return self._convert(row)
        except (msgspec.ValidationError, ValueError, TypeError, RecursionError) as exc:
            raise DecodeError(str(exc)) from exc

    def rows(self, columns: Mapping[str, list[Any]], rows: int) -> list[dict[str, Any]]:
        """Columns as rows."""
        if not columns:
            return [{} for _ in range(rows)]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _convert(self, row: Mapping[str, Any]) -> Any:
        try:
            return msgspec.convert(row, self._type, strict=self._strict)
        except msgspec.ValidationError:
            fields = self._fields or {}
            again = {
                name: as_json(value, fields[name].type if name in fields else Any)
                for name, value in row.items()
            }
            if again == row and all(type(again[name]) is type(row[name]) for name in row):
                raise
            return msgspec.convert(again, self._type, strict=self._strict)

    def _column(self, field: _Field, columns: Mapping[str, list[Any]], rows: int) -> Any:
        if field.name not in columns:
            return [field.factory() for _ in range(rows)] if field.factory else repeat(field.default, rows)
        values, expected = columns[field.name], types.GenericAlias(list, (field.type,))
        try:
            return msgspec.convert(values, expected, strict=self._strict)
        except msgspec.ValidationError:
            again = [as_json(value, field.type) for value in values]
            return msgspec.convert(again, expected, strict=self._strict)


def as_json(value: Any, expected: Any) -> Any:
    """A database's value as the stream's JSON would have it, for a field of that type.

    A UUID or a time becomes text, a whole decimal an integer; 0 and 1 are truth values where one is expected.
    """
    if isinstance(value, Decimal):
        if kind_of(expected) == "int" and value == value.to_integral_value():
            return int(value)
        return str(value) if expected is str else value
    if type(value) is int and value in (0, 1) and kind_of(expected) == "bool":
        return bool(value)
    return value if isinstance(value, bytes) else msgspec.to_builtins(value)


class _Field(NamedTuple):
    name: str
    type: Any
    required: bool
    default: Any
    factory: Callable[[], Any] | None


def _fields(event_type: Any) -> dict[str, _Field] | None:
    """A struct's fields by their names in JSON; None for any other type."""
    try:
        fields = msgspec.structs.fields(event_type)
    except TypeError:
        return None
    return {
        f.encode_name: _Field(
            f.encode_name,
            f.type,
            f.required,
            f.default,
            None if f.default_factory is msgspec.NODEFAULT else f.default_factory,
        )
        for f in fields
    }


def _positional(event_type: Any) -> bool:
    """Whether an event can be made of its fields in their order, and of nothing else."""
    config = event_type.__struct_config__
    parameters = inspect.signature(event_type).parameters.values()
    return (
        config.tag is None
        and not config.array_like
        and not hasattr(event_type, "__post_init__")
        and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    )
