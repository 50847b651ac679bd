"""Generated trips: plausible, the same for a seed, and different for training and streaming."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from examples.rides.events import RideStarted
from examples.rides.generator import generate
from examples.rides.trips import Trips, ride_events


def same(left: Trips, right: Trips) -> bool:
    names = [field.name for field in dataclasses.fields(Trips)][1:]
    return left.sources == right.sources and all(
        np.array_equal(getattr(left, n), getattr(right, n), equal_nan=True) for n in names
    )


def test_trips_depend_on_the_seed() -> None:
    assert same(generate(2000, 7), generate(2000, 7))
    assert not np.array_equal(generate(2000, 7).trip_distance, generate(2000, 8).trip_distance)


def test_trips_to_stream_are_not_those_to_train_on() -> None:
    learnt, streamed = generate(2000, 7), generate(2000, 7, part="live")

    assert not np.array_equal(learnt.trip_distance, streamed.trip_distance)
    assert not set(learnt.ride_ids()) & set(streamed.ride_ids())
    assert not set(generate(5, 1).ride_ids()) & set(generate(5, 2).ride_ids())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_trip_can_be_decoded(seed: int) -> None:
    events = [msgspec.json.encode(event) for event in ride_events(generate(3000, seed, part="live"))]

    decoded = [msgspec.json.decode(event, type=RideStarted) for event in events]

    assert len({ride.ride_id for ride in decoded}) == 3000
    assert any(ride.passenger_count is None for ride in decoded)


def test_few_trips_are_impossible_and_cash_tips_are_not_recorded() -> None:
    trips = generate(20_000)

    impossible = ~trips.is_ride
    assert 0.005 < impossible.mean() < 0.05
    assert (trips.trip_distance == 0).any()
    assert (trips.minutes < 1).any()
    assert (trips.minutes > 180).any()
    assert (trips.fare_amount < 0).any()
    assert (trips.tip_amount[trips.payment_type != 1] == 0).all()
    assert 0.5 < trips.is_tipped.mean() < 0.9


def test_rides_are_plausible() -> None:
    trips = generate(20_000)
    ride = trips.take(trips.is_ride)

    speed = ride.trip_distance / ride.minutes * 60
    hour = ride.pickup_datetime.astype("datetime64[h]").astype(int) % 24
    assert 5 < np.median(speed) < 20
    assert speed[hour == 4].mean() > 1.2 * speed[hour == 17].mean()
    assert 1 < np.median(ride.trip_distance) < 5
    assert (ride.minutes > 60).any()
    assert (np.diff(trips.pickup_datetime) >= np.timedelta64(0)).all()


@pytest.mark.parametrize("events", [0, 1])
def test_number_of_trips(events: int) -> None:
    assert len(list(ride_events(generate(events)))) == events
