"""Features: a row depends only on its own ride, to the last bit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from examples.rides.events import RideStarted
from examples.rides.features import WIDTH, features
from examples.rides.generator import generate
from examples.rides.trips import rides

RIDE = RideStarted("a", 230, 48, 1.5, datetime(2019, 1, 15, 3, 36, 12))  # noqa: DTZ001 - naive, as on record

any_ride = st.builds(
    RideStarted,
    ride_id=st.just("a"),
    pickup_location_id=st.integers(0, 2**31 - 1),
    dropoff_location_id=st.integers(0, 300),
    trip_distance=st.floats(allow_nan=False),
    pickup_datetime=st.datetimes(),
    passenger_count=st.none() | st.integers(0, 9),
)


def row(ride: RideStarted) -> bytes:
    dense: bytes = features([ride]).toarray().tobytes()
    return dense


def changed(**fields: object) -> RideStarted:
    return msgspec.structs.replace(RIDE, **fields)


@given(st.lists(any_ride, min_size=1, max_size=20))
def test_row_is_finite_and_the_same_alone_and_in_a_batch(batch: list[RideStarted]) -> None:
    together = features(batch).toarray()

    assert together.shape == (len(batch), WIDTH)
    assert np.isfinite(together).all()
    for number, ride in enumerate(batch):
        assert together[number].tobytes() == row(ride)


def test_predictions_are_bit_identical_at_every_batch_size() -> None:
    trips = generate(3000)
    batch = rides(trips)
    model = Ridge(solver="lsqr").fit(features(batch), trips.minutes)

    alone = np.concatenate([model.predict(features([ride])) for ride in batch])
    for size in (2, 7, 16, 255, 256, 1024):
        grouped = [model.predict(features(batch[at : at + size])) for at in range(0, len(batch), size)]
        assert np.concatenate(grouped).tobytes() == alone.tobytes(), size


@pytest.mark.parametrize(
    "other",
    [
        changed(pickup_location_id=231),
        changed(dropoff_location_id=49),
        changed(pickup_location_id=48, dropoff_location_id=230),
        changed(trip_distance=1.6),
        changed(pickup_datetime=RIDE.pickup_datetime + timedelta(hours=1)),
        changed(pickup_datetime=RIDE.pickup_datetime + timedelta(days=1)),
    ],
)
def test_zones_distance_hour_and_weekday_change_the_row(other: RideStarted) -> None:
    assert row(other) != row(RIDE)


@pytest.mark.parametrize(
    "other",
    [
        changed(passenger_count=3),
        changed(ride_id="b"),
        changed(pickup_datetime=RIDE.pickup_datetime + timedelta(weeks=1)),
        changed(pickup_datetime=RIDE.pickup_datetime.replace(tzinfo=UTC) + timedelta(hours=5)),
    ],
    ids=["passengers", "id", "a week later", "the same moment in UTC"],
)
def test_other_fields_do_not_change_the_row(other: RideStarted) -> None:
    assert row(other) == row(RIDE)


def test_unknown_zones_share_one_column() -> None:
    assert row(changed(pickup_location_id=2**31 - 1)) == row(changed(pickup_location_id=0))
    assert row(changed(pickup_location_id=266)) == row(changed(pickup_location_id=0))
    assert row(changed(pickup_location_id=265)) != row(changed(pickup_location_id=0))


def test_distance_is_clipped() -> None:
    assert row(changed(trip_distance=float("inf"))) == row(changed(trip_distance=100.0))
    assert row(changed(trip_distance=-3.0)) == row(changed(trip_distance=0.0))
