"""The code on the page of handlers runs as it stands, and what the page says of it is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from eventml import Delivery, Record
from eventml.errors import RegistrationError
from eventml.testing import TestBus

PAGE = Path(__file__).parents[2] / "docs" / "handlers.md"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    exec("".join(blocks), names)  # noqa: S102 - our own page
    return names


@pytest.mark.anyio
async def test_every_handler_of_the_page_does_what_it_says(
    page: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    headers = {"x-correlation-id": "c-1"}
    async with TestBus(page["bus"]) as test:
        for number, miles in enumerate((2.0, 0.5, 12.0, -1.0), start=1):
            value = f'{{"ride_id": "r-{number}", "miles": {miles}}}'.encode()
            await test.publish_record(Record("rides.started", value, b"k", str(number), headers))
        minutes = [[one.minutes for one in test.published(f"rides.{name}")] for name in ("duration", "price")]
        weather = test.published("rides.weather")
        numbers = {
            name: [one.value for one in test.published(f"rides.{name}")] for name in ("tip", "fare", "scored")
        }
        audits, ages = test.records("rides.audit"), test.records("rides.age")
        letters = [(letter.handler, letter.record.id, letter.reason) for letter in test.dead_letters()]
    assert minutes == [[8.0, 2.0, 48.0, -4.0], [2.0, 0.5, 12.0]]
    assert numbers == {"tip": [0.4, 0.2 * 12], "fare": [8.0, 4.25, 33.0, 0.5], "scored": [4.0]}
    assert weather == ["rain"] * 4
    assert [(one.id, one.key, one.headers["x-rule"]) for one in audits] == [("3/price/2", b"audits", "7")]
    assert {one.headers["x-correlation-id"] for one in ages} == {"c-1"}
    assert ("price", "4", "Reject: a ride has no negative length") in letters
    assert [number for name, number, _ in letters if name == "scored"] == ["2", "3", "4"]
    assert "3/duration 48.0\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"to": ["a", "b"]}, "to="),
        ({"to": "a", "carry": ["ce_id"]}, "carry"),
        ({"to": "a", "concurrency": 4}, "concurrency"),
    ],
)
def test_what_the_page_says_is_refused(page: dict[str, Any], arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        page["bus"].predictor("t", name="refused", **arguments)(page["duration"])


def test_one_delivery_for_a_batch_is_refused(page: dict[str, Any]) -> None:
    def wrong(rides: list[Any], delivery: Delivery) -> list[float]:
        return [0.0] * len(rides)

    with pytest.raises(RegistrationError, match=r"list\[Delivery\]"):
        page["bus"].predictor("t", to="a")(wrong)
