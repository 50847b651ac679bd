"""The app of the tests: every kind of predictor for the same rides."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd  # noqa: TC002 - the bus reads the annotations at run time
import pyarrow as pa  # noqa: TC002 - as above

from eventml import Bus, Model, Reject

bus = Bus("rides")


class RideStarted(msgspec.Struct, frozen=True):
    ride_id: str
    zone: int
    distance: float
    passengers: int | None = None


class Minutes(msgspec.Struct, frozen=True):
    minutes: float
    zone: int


class Doubling:
    def predict(self, distances: np.ndarray) -> np.ndarray:
        return distances * 2.1


bus.topic("rides.started", event_type=RideStarted, id_field="ride_id")


def model() -> Model:
    if "SLOW" in os.environ:
        Path("loaded").touch()  # the test that kills this process waits for the file
    return Model(Doubling(), "doubling", os.environ.get("MODEL_VERSION", "v1"))


@bus.predictor("rides.started", to="rides.minutes", model=model, backoff=0.001, retries=1)
def minutes(rides: list[RideStarted], model: Doubling) -> list[Minutes | None]:
    if bad := [ride.ride_id for ride in rides if ride.zone == 13]:
        raise ValueError(f"no such zone: {bad[0]}")
    if any(ride.zone == 14 for ride in rides):
        raise Reject("zone 14 is closed")
    times = model.predict(np.array([ride.distance for ride in rides])).tolist()
    return [
        None if ride.zone == 15 else Minutes(value, ride.zone)
        for ride, value in zip(rides, times, strict=True)
    ]


@bus.predictor("rides.started", to="rides.single", model=model, backoff=0.001, retries=0)
def single(ride: RideStarted, model: Doubling) -> float:
    if ride.zone == 13:
        raise ValueError("no such zone")
    return float(model.predict(np.array([ride.distance]))[0])


@bus.predictor("rides.started", to="rides.array", model=model)
def array(rides: list[RideStarted], model: Doubling) -> np.ndarray:
    return model.predict(np.array([ride.distance for ride in rides]))


@bus.predictor("rides.started", to="rides.frame", model=model, event_type=RideStarted)
def frame(rides: pd.DataFrame, model: Doubling) -> Any:
    return model.predict(rides["distance"])


@bus.predictor("rides.started", to="rides.table", model=model, event_type=RideStarted)
def table(rides: pa.Table, model: Doubling) -> np.ndarray:
    return model.predict(rides["distance"].to_numpy())


@bus.predictor("rides.started", to="rides.slow", model=model)
def slow(rides: list[RideStarted], model: Doubling) -> np.ndarray:
    time.sleep(float(os.environ.get("SLOW", "0")))
    return model.predict(np.array([ride.distance for ride in rides]))


@bus.predictor("rides.started", to="rides.hung", model=model)
def hung(rides: list[RideStarted], model: Doubling) -> np.ndarray:
    time.sleep(3600)
    return model.predict(np.zeros(len(rides)))


@bus.predictor("rides.started", to="rides.untyped")
def untyped(rides: list[dict]) -> list[dict]:  # type: ignore[type-arg]  # without type arguments
    return [{"twice": ride["distance"] * 2, "all": [ride["zone"], 1]} for ride in rides]


@bus.predictor("rides.started", to="rides.huge")
def huge(rides: list[RideStarted]) -> list[int]:
    return [1 << 70 if ride.ride_id.endswith("2") else ride.zone for ride in rides]


class NumberedRide(msgspec.Struct, frozen=True):
    ride_id: int
    zone: int
    distance: float


@bus.predictor("rides.started", to="rides.numbered", model=model, event_type=NumberedRide)
def numbered(rides: list[NumberedRide], model: Doubling) -> list[Minutes]:
    return [Minutes(float(model.predict(np.array([ride.distance]))[0]), ride.zone) for ride in rides]


class Place(msgspec.Struct, frozen=True):
    ride_id: str
    area: str | None = None


@bus.predictor("rides.started", to="rides.areas", event_type=Place)
def areas(rides: list[Place]) -> list[str]:
    return [ride.area or "none" for ride in rides]


@bus.consumer("rides.started")
def log(ride: RideStarted) -> None:
    """Do nothing."""
