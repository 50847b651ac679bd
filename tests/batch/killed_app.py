"""The app of `test_killed.py`: one predictor, and no import that it does not need, as it starts often."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import numpy as np

from eventml import Bus, Model

bus = Bus("rides")


class RideStarted(msgspec.Struct, frozen=True):
    ride_id: str
    zone: int
    distance: float


class Doubling:
    def predict(self, distances: np.ndarray) -> np.ndarray:
        return distances * 2.1


bus.topic("rides.started", event_type=RideStarted, id_field="ride_id")


def model() -> Model:
    Path("loaded").touch()  # the test that kills this process waits for the file
    return Model(Doubling(), "doubling", "v1")


@bus.predictor("rides.started", to="rides.slow", model=model)
def slow(rides: list[RideStarted], model: Doubling) -> np.ndarray:
    time.sleep(float(os.environ["SLOW"]))
    return model.predict(np.array([ride.distance for ride in rides]))
