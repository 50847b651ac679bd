"""Event types of every form that a column has, made up by Hypothesis, with events of them."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from typing import Annotated, Any, Final, Literal

import msgspec
from hypothesis import strategies as st


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Stars(enum.IntEnum):
    ONE = 1
    FIVE = 5


_MICROSECONDS = st.integers(-(2**40), 2**40)
_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)

FORMS: Final[dict[Any, st.SearchStrategy[Any]]] = {
    int: st.integers(-(2**53), 2**53),
    Annotated[int, msgspec.Meta(ge=0, le=265)]: st.integers(0, 265),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: _TEXT,
    bytes: st.binary(max_size=8),
    Literal["jfk", "lga"]: st.sampled_from(["jfk", "lga"]),
    Literal[1, 2]: st.sampled_from([1, 2]),
    Size: st.sampled_from(Size),
    Stars: st.sampled_from(Stars),
    dt.datetime: st.datetimes(),
    Annotated[dt.datetime, msgspec.Meta(tz=False)]: st.datetimes(),
    Annotated[dt.datetime, msgspec.Meta(tz=True)]: st.datetimes(
        min_value=dt.datetime(2, 1, 1),  # noqa: DTZ001 - Hypothesis adds the zone
        max_value=dt.datetime(9998, 12, 31),  # noqa: DTZ001 - as above
        timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30))]),
    ),
    dt.date: st.dates(),
    Annotated[dt.time, msgspec.Meta(tz=False)]: st.times(),
    dt.timedelta: st.builds(lambda n: dt.timedelta(microseconds=n), _MICROSECONDS),
    uuid.UUID: st.uuids(),
}
"""The types that a column's field may have, each with some values."""


@st.composite
def types_with_events(draw: st.DrawFn, *, least: int = 0) -> tuple[type[msgspec.Struct], list[Any]]:
    """A struct of one to six such fields, and events of it."""
    kinds = draw(st.lists(st.sampled_from(list(FORMS)), min_size=1, max_size=6))
    nullable = draw(st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds)))
    fields: list[Any] = []
    values = []
    for place, (kind, maybe) in enumerate(zip(kinds, nullable, strict=True)):
        fields.append((f"field_{place}", kind | None if maybe else kind))
        values.append(FORMS[kind] | st.none() if maybe else FORMS[kind])
    event_type = msgspec.defstruct("Event", fields, rename="camel")
    rows = draw(st.lists(st.tuples(*values), min_size=least, max_size=12))
    return event_type, [event_type(*row) for row in rows]


def table_of_rows(events: list[Any], event_type: Any) -> Any:
    """The events as another program's table, under the names that travel; None where nothing says a type."""
    import pyarrow as pa  # noqa: PLC0415 - the module is loaded by tests that have nothing of it

    names = {field.name: field.encode_name for field in msgspec.structs.fields(event_type)}
    columns = {sent: [_plain(getattr(event, name)) for event in events] for name, sent in names.items()}
    return pa.table(columns)


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return str(value) if isinstance(value, uuid.UUID) else value
