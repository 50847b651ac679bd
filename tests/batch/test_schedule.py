"""When the next run is: pure decisions."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.batch.schedule import Cron, Every
from eventml.errors import ConfigError

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2024, 5, 1, 12, 0, tzinfo=BERLIN)


@given(st.floats(0.1, 1e6), st.floats(0, 1e6))
def test_every_counts_from_start_to_start(seconds: float, took: float) -> None:
    now = NOON + timedelta(seconds=took)
    wait = Every(seconds).wait(NOON, now)
    assert wait == pytest.approx(max(seconds - took, 0), abs=1e-5)


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("*/15 * * * *", NOON, 15 * 60),
        ("30 4 * * *", NOON, 16.5 * 3600),
        ("@daily", NOON, 12 * 3600),
        ("0 13 * * mon-fri", NOON, 3600),
        ("0 12 * * *", NOON, 24 * 3600),
    ],
)
def test_cron_by_the_local_clock(expression: str, after: datetime, expected: float) -> None:
    assert Cron(expression).wait(after, after) == expected


@pytest.mark.parametrize("expression", ["", "x y", "61 * * * *", "* * * *"])
def test_an_expression_that_is_none(expression: str) -> None:
    with pytest.raises(ConfigError, match="--cron"):
        Cron(expression)
