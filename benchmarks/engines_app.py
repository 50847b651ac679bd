"""The app of `benchmarks/engines.py`: a linear model over four features."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa  # noqa: TC002 - the bus reads the annotations at run time

from eventml import Bus, Model

bus = Bus("rides")


class Ride(msgspec.Struct, frozen=True):
    ride_id: str
    distance: float
    hour: float
    passengers: float
    fare: float


class Linear:
    weights = np.array([2.31, 0.173, -0.0417, 0.873])

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows @ self.weights + 3.7)


bus.topic("rides.started", event_type=Ride, id_field="ride_id")


@bus.predictor(
    "rides.started", to="rides.duration", model=lambda: Model(Linear(), "linear", "v1"), event_type=Ride
)
def duration(rides: pa.Table, model: Linear) -> np.ndarray:
    names = ("distance", "hour", "passengers", "fare")
    return model.predict(np.column_stack([rides[name].to_numpy() for name in names]))
