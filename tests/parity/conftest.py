from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from examples.rides import tlc
from examples.rides.folder import ENVIRONMENT
from examples.rides.generator import generate
from examples.rides.train import train
from examples.rides.trips import ride_events
from tests.parity.stream import predict_on_a_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parity.predictions import Predictions

REAL: Final = "PARITY_TRIPS"
"""Environment variable with a file of the TLC's trips to use instead of generated ones."""

INVALID: Final[tuple[dict[str, Any], ...]] = (
    {"pickup_location_id": None},
    {"dropoff_location_id": -5},
    {"trip_distance": None},
    {"pickup_datetime": None},
)
"""Invalid fields; each set makes one ride more."""


@pytest.fixture(scope="session")
def rides() -> list[dict[str, Any]]:
    """10,000 rides as a producer publishes them, and some invalid ones among them."""
    path = os.environ.get(REAL)
    trips = tlc.read([path], at_most=10_000) if path else generate(10_000, part="live")
    rides = list(ride_events(trips))
    for number, invalid in enumerate(INVALID):
        rides.insert(number * 1234, {**rides[-1], "ride_id": f"invalid-{number}", **invalid})
    return rides


@pytest.fixture(scope="session", autouse=True)
def _models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("models")
        patch.setenv(ENVIRONMENT, str(folder))
        train(generate(5000), folder, trained_on="a test")
        yield


@pytest.fixture(scope="session")
def in_memory(rides: list[dict[str, Any]]) -> Predictions:
    """Predictions in memory; those of every other deployment must equal them."""
    return predict_on_a_stream("memory://parity", rides)
