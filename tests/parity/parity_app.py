"""A bus whose predictors differ as much as they can. Each must predict the same in every deployment.

duration, tip   the example's own two: lists of rides, a linear model on sparse rows
boosted         a pandas frame, a pipeline with a ColumnTransformer, boosted trees; rows out
linear          the same with a linear model on dense columns, called in blocks; a Series out
polars          a polars frame, a forest; a list of outputs
arrow           an Arrow table, and arithmetic on its columns; a table out
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl  # noqa: TC002 - the bus reads the annotations at run time
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from eventml import Bus
from eventml.models import in_blocks
from examples.rides import app
from examples.rides.events import DurationPredicted, RideStarted
from examples.rides.generator import generate
from examples.rides.trips import ride_events

bus = Bus("parity")
bus.topic("parity.rides", event_type=RideStarted, id_field="ride_id")

FIELDS = {"duration": "minutes", "tip": "amount", "boosted": "minutes", "polars": "minutes", "arrow": "fare"}
"""Field of a prediction that holds the number; predictions of the others are bare numbers."""


class FarePredicted(msgspec.Struct):
    ride_id: str
    fare: float


for predictor in ("duration", "tip"):
    bus.predictor(
        "parity.rides",
        to=f"parity.{predictor}",
        model=functools.partial(app.trained, predictor),
        name=predictor,
    )(getattr(app, predictor))


@functools.cache
def training() -> tuple[pd.DataFrame, Any]:
    """Rides and how long they took, as in a notebook without eventml."""
    trips = generate(4000)
    trips = trips.take(trips.is_ride)
    return pd.DataFrame(list(ride_events(trips))), trips.minutes


def piped(estimator: Any) -> Any:
    columns = ColumnTransformer(
        [
            ("zones", OneHotEncoder(handle_unknown="ignore", max_categories=40), ["pickup_location_id"]),
            (
                "numbers",
                make_pipeline(SimpleImputer(), StandardScaler()),
                ["trip_distance", "passenger_count"],
            ),
        ],
        sparse_threshold=0,
    )
    return make_pipeline(columns, estimator)


def boosted_model() -> Any:
    with threadpool_limits(1):  # more threads of OpenMP stall on a busy machine
        return piped(HistGradientBoostingRegressor(max_iter=20, random_state=0)).fit(*training())


NUMBERS = ["pickup_location_id", "dropoff_location_id", "trip_distance"]


def linear_model() -> Any:
    """A model of many dense columns: without `in_blocks`, its last bits depend on the size of the batch."""
    columns = make_pipeline(SimpleImputer(), StandardScaler(), PolynomialFeatures(3))
    chosen = ColumnTransformer([("numbers", columns, [*NUMBERS, "passenger_count"])])
    return make_pipeline(chosen, Ridge()).fit(*training())


def forest_model() -> Any:
    rides, minutes = training()
    return RandomForestRegressor(10, max_depth=8, random_state=0).fit(rides[NUMBERS].to_numpy(), minutes)


@bus.predictor(
    "parity.rides",
    to="parity.boosted",
    model=boosted_model,
    event_type=RideStarted,
    output_type=DurationPredicted,
)
def boosted(rides: pd.DataFrame, model: Any) -> pd.DataFrame:
    return rides[["ride_id"]].assign(minutes=model.predict(rides))


@bus.predictor("parity.rides", to="parity.linear", model=linear_model, event_type=RideStarted)
def linear(rides: pd.DataFrame, model: Any) -> pd.Series:
    return pd.Series(in_blocks(model.predict, rides))


@bus.predictor("parity.rides", to="parity.polars", model=forest_model, event_type=RideStarted, name="polars")
def of_polars(rides: pl.DataFrame, model: Any) -> list[DurationPredicted]:
    minutes = model.predict(rides.select(NUMBERS).to_numpy()).tolist()
    return [DurationPredicted(ride, value) for ride, value in zip(rides["ride_id"], minutes, strict=True)]


@bus.predictor(
    "parity.rides", to="parity.arrow", event_type=RideStarted, output_type=FarePredicted, name="arrow"
)
def of_arrow(rides: pa.Table) -> pa.Table:
    fare = pc.add(2.5, pc.multiply(rides["trip_distance"], np.pi))
    return rides.select(["ride_id"]).append_column("fare", fare)
