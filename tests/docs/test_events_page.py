"""The code on the page of events runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventml import Record
from eventml.testing import TestBus

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


def run_page() -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    page: dict[str, Any] = {"__name__": "page"}
    exec(compile("".join(blocks), "page", "exec", dont_inherit=True), page)  # noqa: S102 - our own page
    return page


@pytest.mark.anyio
async def test_the_predictor_of_the_page_answers() -> None:
    page = run_page()
    async with TestBus(page["bus"]) as test:
        await test.publish_record(
            Record("rides.started", b'{"ride_id": "r-1", "tripDistance": "2.0"}', None, "1")
        )
        await test.publish_record(
            Record("rides.started", b'{"ride_id": "r-2", "tripDistance": -1}', None, "2")
        )
        [predicted] = test.published("rides.duration")
        [letter] = test.dead_letters()
    assert predicted == page["DurationPredicted"](ride_id="r-1", minutes=10.0)
    assert "at `$.tripDistance`" in letter.reason


@pytest.mark.anyio
async def test_arrays_travel_as_bytes_and_one_of_another_size_fails_alone() -> None:
    page = run_page()
    arrays = [np.arange(64, dtype=np.int32) + n for n in range(3)]
    async with TestBus(page["bus"]) as test:
        for array in (*arrays, arrays[0][:32]):
            await test.publish("texts", page["Text"](tokens=array.tobytes()))
        assert [one.value for one in test.published("texts.score")] == [31.5, 32.5, 33.5]
        [letter] = test.dead_letters()
    assert "length >= 256" in letter.reason
