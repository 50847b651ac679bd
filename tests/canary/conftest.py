"""Trips to train models on and later ones to predict: real ones where there are some, else generated ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from examples.rides import tlc
from examples.rides.features import features
from examples.rides.generator import generate
from examples.rides.trips import rides

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from examples.rides.events import RideStarted
    from examples.rides.trips import Trips

    Floats = NDArray[np.float64]


class Month(NamedTuple):
    """The trips of one month to train on, and those of later months with their true minutes."""

    trained: Trips
    later: list[RideStarted]
    minutes: Floats

    def model(self, chosen: NDArray[np.int64] | slice) -> Ridge:
        """A model that is trained on some trips of the month."""
        part = self.trained.take(chosen)
        return Ridge(solver="sparse_cg").fit(features(rides(part)), part.minutes)

    def errors(self, model: Any) -> Floats:
        """The absolute error of a model for each later trip."""
        found: Floats = np.abs(model.predict(features(self.later)) - self.minutes)
        return found


def month_of(trained: Trips, later: Trips) -> Month:
    """Leave out trips that are no rides."""
    later = later.take(later.is_ride)
    return Month(trained.take(trained.is_ride), rides(later), later.minutes)


@pytest.fixture(scope="session")
def generated() -> Month:
    return month_of(generate(10_000, seed=1), generate(20_000, seed=2))


@pytest.fixture(scope="session")
def recorded() -> Month:
    """Trips in the files of the TLC, those of the first file to train on."""
    files = sorted(Path(os.environ.get("RIDES_TRIPS", ".")).glob("yellow_tripdata*"))
    if not os.environ.get("RIDES_TRIPS") or len(files) < 2:
        pytest.skip(
            "no recorded trips: set RIDES_TRIPS to a folder with the TLC's files of two months or more"
        )
    return month_of(tlc.read(files[:1]), tlc.read(files[1:]))


@pytest.fixture(params=["generated", "recorded"])
def month(request: pytest.FixtureRequest) -> Month:
    found: Month = request.getfixturevalue(request.param)
    return found
