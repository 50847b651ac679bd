"""A frame of events is the frame of a table of the same rows, and only the event's type says its dtypes."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from polars.testing import assert_frame_equal as assert_polars_equal

from eventml.frames import FrameBuilder, Library, cast_table, frame_type
from tests.frames.events import frame_of_table, table_of_rows, types_with_events

LIBRARIES = get_args(Library)


def assert_same(library: Library, one: Any, other: Any) -> None:
    if library == "pandas":
        assert_frame_equal(one, other, check_exact=True, check_index_type="equiv")
        assert list(one.columns) == list(other.columns)
    elif library == "polars":
        assert one.schema == other.schema
        assert_polars_equal(one, other, check_exact=True)
    else:
        assert one.equals(other)
        assert one.schema.equals(other.schema)


def dtypes(library: Library, frame: Any) -> Any:
    return list(frame.dtypes.items()) if library == "pandas" else frame.schema


@pytest.mark.parametrize("library", LIBRARIES)
@given(made=types_with_events())
def test_events_and_their_table_make_one_frame(library: Library, made: tuple[Any, list[Any]]) -> None:
    event_type, events = made
    builder = FrameBuilder(frame_type(library, event_type))
    assert_same(
        library, frame_of_table(builder, table_of_rows(events, event_type)), builder.from_events(events)
    )


@pytest.mark.parametrize("library", LIBRARIES)
@given(made=types_with_events())
def test_a_table_of_the_schema_itself_makes_the_same_frame(
    library: Library, made: tuple[Any, list[Any]]
) -> None:
    event_type, events = made
    builder = FrameBuilder(frame_type(library, event_type))
    as_sent = FrameBuilder(frame_type("pyarrow", event_type)).from_events(events)
    renamed = as_sent.rename_columns([f.encode_name for f in msgspec.structs.fields(event_type)])
    assert_same(library, frame_of_table(builder, renamed), builder.from_events(events))


@pytest.mark.parametrize("library", LIBRARIES)
@given(made=types_with_events(), data=st.data())
def test_some_rows_of_a_cast_table_make_the_frame_of_those_events(
    library: Library, made: tuple[Any, list[Any]], data: st.DataObject
) -> None:
    event_type, events = made
    frame = frame_type(library, event_type)
    builder = FrameBuilder(frame)
    cast = cast_table(table_of_rows(events, event_type), frame.columns)
    start = data.draw(st.integers(0, len(events)))
    assert_same(library, builder.from_table(cast.slice(start)), builder.from_events(events[start:]))


@pytest.mark.parametrize("library", LIBRARIES)
@given(made=types_with_events(), data=st.data())
def test_dtypes_are_the_same_whatever_the_batch_holds(
    library: Library, made: tuple[Any, list[Any]], data: st.DataObject
) -> None:
    event_type, events = made
    builder = FrameBuilder(frame_type(library, event_type))
    some = data.draw(st.lists(st.sampled_from(events), max_size=5)) if events else []
    whole = dtypes(library, builder.from_events(events))
    assert dtypes(library, builder.from_events(some)) == whole
    assert dtypes(library, builder.from_events([])) == whole


@given(made=types_with_events())
def test_a_pandas_frame_counts_its_rows(made: tuple[Any, list[Any]]) -> None:
    event_type, events = made
    frame = FrameBuilder(frame_type("pandas", event_type)).from_events(events)
    assert type(frame.index).__name__ == "RangeIndex"
    assert list(frame.index) == list(range(len(events)))


@given(made=types_with_events())
def test_an_arrow_table_holds_the_events_themselves(made: tuple[Any, list[Any]]) -> None:
    event_type, events = made
    table = FrameBuilder(frame_type("pyarrow", event_type)).from_events(events)
    rows = [
        {field.encode_name: row[field.name] for field in msgspec.structs.fields(event_type)}
        for row in table.to_pylist()
    ]
    assert msgspec.convert(rows, list[event_type], strict=False) == events  # type: ignore[valid-type]  # made at run time
