"""The code on the page of reading runs as it stands."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventml import DecodeError, Record, config
from eventml.testing import TestBus

PAGE = Path(__file__).parents[2] / "docs" / "reading.md"


@pytest.fixture
def page() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    exec("".join(blocks), names)  # noqa: S102 - our own page
    return names


def test_the_handlers_of_the_page_start_where_it_says(page: dict[str, Any]) -> None:
    options = {name: handler.options.start for name, handler in page["bus"].handlers.items()}
    assert options == {"duration": datetime(2026, 1, 5, 8, tzinfo=UTC), "watch": timedelta(hours=1)}


@pytest.mark.anyio
async def test_the_read_of_the_page_in_a_test_bus(page: dict[str, Any]) -> None:
    bus = page["bus"]
    async with TestBus(bus) as test:
        await test.publish("rides.started", page["RideStarted"]("r-1", 2.0))
        await test.publish_record(Record("rides.started", b"[]"))
        good, bad = [delivery async for delivery in bus.read("rides.started", until="end")]
        assert [d.event["value"] async for d in bus.read("rides.duration", until="end")] == [10.0]
    assert (good.event, good.topic, good.partition) == (page["RideStarted"]("r-1", 2.0), "rides.started", 0)
    with pytest.raises(DecodeError, match=bad.id):
        _ = bad.event
    assert isinstance(bad.decoded, DecodeError)


@pytest.mark.anyio
async def test_the_function_of_the_page_returns_what_was_published(page: dict[str, Any]) -> None:
    page["bus"].configure(config.load(environ={}, overrides={"backend": f"memory://{secrets.token_hex(4)}"}))
    async with page["bus"].open():
        await page["bus"].publish("rides.started", page["RideStarted"]("r-1", 2.5))
    assert await page["miles_of_the_last_hour"]() == 2.5
