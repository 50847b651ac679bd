"""The code on the page of data frames runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from eventml.testing import TestBus

PAGE = Path(__file__).parents[2] / "docs" / "frames.md"


@pytest.mark.anyio
async def test_the_predictors_of_the_page_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame(
        {"borough": ["queens", "bronx"], "trip_distance": [1.0, 9.0], "passenger_count": [1, None]}
    )
    columns = ColumnTransformer(
        [
            ("words", OneHotEncoder(handle_unknown="ignore"), ["borough"]),
            ("numbers", SimpleImputer(), ["trip_distance", "passenger_count"]),
        ]
    )
    skops.io.dump(make_pipeline(columns, Ridge()).fit(frame, [5.0, 40.0]), "duration.skops")
    predicted = msgspec.defstruct("DurationPredicted", [("ride_id", str), ("minutes", float)])
    page: dict[str, Any] = {"DurationPredicted": predicted, "__name__": "page"}
    exec(first + second, page)  # noqa: S102 - our own page
    async with TestBus(page["bus"], raise_failures=True) as t:
        await t.publish("rides.started", page["RideStarted"]("r-1", "queens", 4.0), id="r-1")
        [number] = t.published("rides.duration")
        [row] = t.published("rides.minutes")
    assert row == predicted("r-1", number.value)
    assert number.input == "r-1"
