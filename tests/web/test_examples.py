"""The examples in the OpenAPI document are events that the service accepts."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.event_examples import example_of
from eventml.event_types import json_decoder, json_schemas
from tests.web.apps import times


def example(event_type: Any) -> Any:
    schema_of, components = json_schemas([event_type], "#/components/schemas/{name}")
    return example_of(schema_of(event_type), components)


@pytest.mark.parametrize("handler", times.bus.handlers.values(), ids=lambda handler: handler.name)
def test_the_example_fits_the_type(handler: Any) -> None:
    value = msgspec.json.encode(example(handler.event_type))
    json_decoder(handler.event_type)(value)


numbers = st.integers(-1000, 1000) | st.floats(-1e3, 1e3).map(lambda number: round(number, 3))


@given(limits=st.lists(numbers, min_size=2, max_size=2, unique=True).map(sorted), open_=st.booleans())
def test_a_number_is_within_its_limits(limits: list[float], open_: bool) -> None:
    least, most = map(float, limits)
    meta = msgspec.Meta(gt=least, lt=most) if open_ else msgspec.Meta(ge=least, le=most)
    number = example(Annotated[float, meta])
    assert least < number < most or (not open_ and number in (least, most))


@given(st.integers(-(1 << 62), 1 << 62))
def test_an_integer_is_exact(limit: int) -> None:
    assert example(Annotated[int, msgspec.Meta(gt=limit, lt=limit + 2)]) == limit + 1
    assert example(Annotated[int, msgspec.Meta(ge=limit, le=limit)]) == limit


@given(least=st.integers(0, 12), more=st.integers(0, 5))
def test_a_text_and_a_list_have_a_length_within_their_limits(least: int, more: int) -> None:
    limits = msgspec.Meta(min_length=least, max_length=least + more)
    assert least <= len(example(Annotated[str, limits])) <= least + more
    assert least <= len(example(Annotated[list[int], limits])) <= least + more
