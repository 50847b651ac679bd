"""Which trips train and score a model, and which are only streamed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from examples.rides.generator import generate
from examples.rides.trips import ride_events

START = np.datetime64("2019-01-15T03:36:12", "us")
GOOD = {
    "trip_distance": 1.5,
    "pickup_location_id": 230.0,
    "dropoff_location_id": 48.0,
    "passenger_count": 1.0,
    "payment_type": 1.0,
    "fare_amount": 6.5,
    "tip_amount": 1.95,
}
NONE = np.nan


@pytest.mark.parametrize(
    ("cells", "seconds", "is_ride", "is_tipped"),
    [
        ({}, 390, True, True),
        ({"trip_distance": 0.0}, 390, False, False),
        ({"trip_distance": -1.0}, 390, False, False),
        ({"trip_distance": NONE}, 390, False, False),
        ({"trip_distance": np.inf}, 390, False, False),
        ({}, 59, False, False),
        ({}, 60, True, True),
        ({}, 3 * 3600, True, True),
        ({}, 3 * 3600 + 1, False, False),
        ({}, -600, False, False),
        ({"pickup_location_id": NONE}, 390, False, False),
        ({"dropoff_location_id": 48.5}, 390, False, False),
        ({"passenger_count": NONE}, 390, True, True),
        ({"fare_amount": -6.5}, 390, True, False),
        ({"fare_amount": NONE}, 390, True, True),
        ({"tip_amount": -1.0}, 390, True, False),
        ({"tip_amount": NONE}, 390, True, False),
        ({"tip_amount": 0.0}, 390, True, True),
        ({"payment_type": 2.0, "tip_amount": 0.0}, 390, True, False),  # cash: the tip is not on record
        ({"payment_type": NONE}, 390, True, False),
    ],
)
def test_rides_and_recorded_tips(
    cells: dict[str, float], seconds: int, is_ride: bool, is_tipped: bool
) -> None:
    columns: dict[str, Any] = {name: np.array([value]) for name, value in (GOOD | cells).items()}
    start, end = np.array([START]), np.array([START + np.timedelta64(seconds, "s")])
    trips = dataclasses.replace(generate(1), pickup_datetime=start, dropoff_datetime=end, **columns)

    assert (trips.is_ride.tolist(), trips.is_tipped.tolist()) == ([is_ride], [is_tipped])
    assert trips.minutes.tolist() == [seconds / 60]
    assert len(list(ride_events(trips))) == 1
