"""The columns of a predictor's output, and their values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

import msgspec
import numpy as np

from eventml.deploy.batch.output_columns import column_values, schema_of_type


class Output(msgspec.Struct):
    whole: int
    part: float | None
    text: str
    level: Literal["low", "high"]
    when: datetime
    price: Decimal
    data: bytes
    parts: list[float]
    flag: bool


def test_the_kind_of_a_column_follows_from_the_field_s_type() -> None:
    schema = schema_of_type(Output)
    assert schema is not None
    kinds = {field.name: field.kind for field in schema}
    assert kinds == {
        "whole": "int",
        "part": "float",
        "text": "text",
        "level": "text",
        "when": "text",
        "price": "text",
        "data": "text",
        "parts": "json",
        "flag": "bool",
    }


def test_values_without_a_column_type_are_the_text_that_json_has() -> None:
    when = datetime(2024, 1, 1, tzinfo=UTC)
    assert column_values([when, None], "text") == ["2024-01-01T00:00:00Z", None]
    assert column_values([Decimal("1.10")], "text") == ["1.10"]
    assert column_values([timedelta(seconds=1)], "text") == ["PT1S"]
    assert column_values([np.float64(0.1), 2, None], "float") == [0.1, 2.0, None]
    assert list(map(type, column_values([np.float64(0.1), 2], "float"))) == [float, float]
