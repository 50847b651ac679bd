"""The code on the page of events runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from eventml import Record
from eventml.testing import TestBus

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


@pytest.mark.anyio
async def test_the_predictor_of_the_page_answers() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    page: dict[str, Any] = {"__name__": "page"}
    exec("".join(blocks), page)  # noqa: S102 - our own page
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
