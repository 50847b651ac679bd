"""A month of trips, each field broken at random in 1% of them: only broken ones are dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from examples.rides.generator import generate
from examples.rides.trips import ride_events
from tests.failures.broken_trips import BREAKS, MISSING, broken, decodes, predict

if TYPE_CHECKING:
    from tests.failures.scenario import Scenario


@pytest.mark.anyio
async def test_a_month_of_broken_trips_is_counted_exactly(scenario: Scenario) -> None:
    predict(scenario)
    trips = generate(60_000, seed=5, part="live")
    month = trips.take(trips.is_ride & (trips.pickup_datetime < np.datetime64("2024-02-01")))
    values, broken_fields = broken(ride_events(month), 0.01, seed=5)
    assert len(values) > 9_000
    await scenario.run(values)
    scenario.check(answered=set(range(len(values))) - set(broken_fields), dead_letters=set(broken_fields))
    for number, fields in broken_fields.items():
        reason = scenario.reason(number)
        assert any(f"`$.{field}`" in reason or f"`{field}`" in reason for field in fields)


@pytest.mark.parametrize("field", BREAKS)
def test_what_breaks_a_field_breaks_the_trip(field: str) -> None:
    """Each way by itself, as the exact count depends on it."""
    [event] = ride_events(generate(1, seed=1))
    assert decodes(msgspec.json.encode(event))
    for way in BREAKS[field]:
        rest = {name: value for name, value in event.items() if name != field}
        assert not decodes(msgspec.json.encode(rest if way is MISSING else {**rest, field: way}))
