"""The columns of an event type and their types, decided once, when a handler is registered."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import inspect

from eventml.errors import MissingExtraError, RegistrationError

Library = Literal["pandas", "polars", "pyarrow"]

Form = Literal["int", "float", "bool", "str", "bytes", "datetime", "utc", "date", "time", "timedelta"]
"""The kind of values in a column. A `datetime` has no offset; a `utc` is a datetime in UTC."""


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a frame, made of one field of the event type.

    Attributes:
        name: Name of the field, and of the column in a frame.
        source: Encoded name of the field (`rename=`), and name of the column in a table that is read.
        form: The kind of its values.
        nullable: Whether values may be None.
        type: Type of one value that is not None, with its constraints.
        constrained: Whether the type allows fewer values than the form (a Literal, an Enum, bounds).
        default: Default for a column that a table lacks; `msgspec.NODEFAULT` if there is none.
        get: Function that returns the field's value of an event.
        to_plain: Function that converts a value to the column's; None if the value is used as it is.
    """

    name: str
    source: str
    form: Form
    nullable: bool
    type: Any
    constrained: bool
    default: Any
    get: Callable[[Any], Any]
    to_plain: Callable[[Any], Any] | None = None


class FrameType(msgspec.Struct, frozen=True):
    """The frame that a handler takes: its library and its columns."""

    library: Library
    columns: tuple[Column, ...]


def library_of(kind: Any) -> Library | None:
    """The library of a frame class, or None for other classes. It imports none of the three."""
    if not isinstance(kind, type):
        return None
    for one in kind.__mro__:
        root = one.__module__.partition(".")[0]
        if one.__name__ == "DataFrame" and root in ("pandas", "polars"):
            return "pandas" if root == "pandas" else "polars"
        if one.__name__ == "Table" and root == "pyarrow":
            return "pyarrow"
    return None


def frame_type(library: Library, event_type: Any) -> FrameType:
    """The frame type of a handler whose first parameter is a frame of that library.

    Raises:
        RegistrationError: A field of the event type cannot be a column; the message names it.
        MissingExtraError: pyarrow is not installed.
    """
    columns = columns_of(event_type)
    if find_spec("pyarrow") is None:  # not imported here, because importing it is slow
        raise MissingExtraError(
            "batch" if library == "pyarrow" else library, f"a handler of {library} frames"
        )
    return FrameType(library, columns)


def columns_of(event_type: Any) -> tuple[Column, ...]:
    """The columns of an event type: one for each field, in their order.

    Raises:
        RegistrationError: The type has no fields, or one of them cannot be a column.
    """
    shown = getattr(event_type, "__name__", repr(event_type))
    try:
        known = inspect.type_info(event_type)
    except (TypeError, ValueError, NameError) as exc:
        raise RegistrationError(f"{shown} cannot be an event type: {exc}") from exc
    fields: tuple[inspect.Field, ...] = getattr(known, "fields", ())
    if not fields:
        raise RegistrationError(
            f"{shown} has no fields to make columns of; event_type must be a msgspec.Struct, a "
            "dataclass, a NamedTuple or a TypedDict"
        )
    getter: Any = itemgetter if isinstance(known, inspect.TypedDictType) else attrgetter
    return tuple(_column(shown, field, getter(field.name)) for field in fields)


def _column(event: str, field: inspect.Field, get: Callable[[Any], Any]) -> Column:
    kinds, nullable = _kinds(field.type)
    found = _value(kinds)
    if found is None or (isinstance(get, itemgetter) and not field.required):
        raise RegistrationError(
            f"{event}.{field.name} cannot be a column: the type must be int, float, bool, str, bytes, "
            "datetime, date, time, timedelta, UUID, or a Literal or Enum of int or str, or one of these or "
            "None. Give the handler an event_type with only the fields that it needs: other fields of a "
            "record are ignored"
        )
    form, type_, constrained, plain = found
    return Column(
        name=field.name,
        source=field.encode_name,
        form=form,
        nullable=nullable,
        type=type_,
        constrained=constrained,
        default=field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory(),
        get=get,
        to_plain=plain,
    )


def _kinds(type_: inspect.Type) -> tuple[list[inspect.Type], bool]:
    """The types of a value that is not None, and whether it may be None."""
    kinds = list(type_.types) if isinstance(type_, inspect.UnionType) else [type_]
    nullable = any(isinstance(kind, inspect.NoneType) for kind in kinds)
    kinds = [kind for kind in kinds if not isinstance(kind, inspect.NoneType)]
    if len(kinds) == 1 and isinstance(kinds[0], inspect.LiteralType) and None in kinds[0].values:
        return [inspect.LiteralType(tuple(v for v in kinds[0].values if v is not None))], True
    return kinds, nullable


_Found = tuple[Form, Any, bool, Callable[[Any], Any] | None]

_PLAIN: Final[dict[type, tuple[Form, type]]] = {
    inspect.IntType: ("int", int),
    inspect.FloatType: ("float", float),
    inspect.BoolType: ("bool", bool),
    inspect.StrType: ("str", str),
    inspect.BytesType: ("bytes", bytes),
}


def _value(kinds: list[inspect.Type]) -> _Found | None:  # noqa: PLR0911 - one for each kind of value
    """Form, type, whether constrained, and converter of such values; None if they cannot be a column."""
    if {type(kind) for kind in kinds} == {inspect.IntType, inspect.FloatType}:
        kinds = [kind for kind in kinds if isinstance(kind, inspect.FloatType)]
    if len(kinds) == 1 and type(kinds[0]) in _PLAIN:
        form, type_ = _PLAIN[type(kinds[0])]
        limits = {
            name: limit for name, limit in msgspec.structs.asdict(kinds[0]).items() if limit is not None
        }
        return form, Annotated[type_, msgspec.Meta(**limits)] if limits else type_, bool(limits), None
    match kinds:
        case [inspect.LiteralType(values=values)]:
            return _choices(values, Literal[values], None)
        case [inspect.EnumType(cls=cls)]:
            return _choices(tuple(one.value for one in cls), cls, attrgetter("value"))
        case [inspect.DateTimeType(tz=tz)]:
            moment = Annotated[dt.datetime, msgspec.Meta(tz=bool(tz))]
            return "utc" if tz else "datetime", moment, False, _without_offset if tz is None else None
        case [
            inspect.TimeType(tz=False)
        ]:  # an Arrow time has no offset, so one that may have it is no column
            return "time", Annotated[dt.time, msgspec.Meta(tz=False)], False, None
        case [inspect.DateType()]:
            return "date", dt.date, False, None
        case [inspect.TimeDeltaType()]:
            return "timedelta", dt.timedelta, False, None
        case [inspect.UUIDType()]:
            return "str", uuid.UUID, True, str
    return None


def _choices(values: tuple[Any, ...], type_: Any, plain: Callable[[Any], Any] | None) -> _Found | None:
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return "str", type_, True, plain
    return ("int", type_, True, plain) if kinds == {int} else None


def _without_offset(time: dt.datetime) -> dt.datetime:
    """The datetime, refused if it has an offset: Arrow would convert it to UTC and drop the offset."""
    if time.tzinfo is not None:
        raise ValueError(
            f"{time.isoformat()} has an offset, and its column has none; annotate the field as "
            "Annotated[datetime, msgspec.Meta(tz=True)] for a column in UTC"
        )
    return time
