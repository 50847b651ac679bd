"""`eventml serve benchmarks.web_app:bus`, as `benchmarks.web` runs it."""

from __future__ import annotations

from typing import Any

from benchmarks.measuring import DurationPredicted, RideStarted
from benchmarks.web_models import features, model_path
from eventml import Artefact, Bus

bus = Bus("benchmark")
bus.topic("rides.started", id_field="ride_id")


@bus.predictor("rides.started", to="rides.duration", model=Artefact(model_path("skops")))
def minutes(rides: list[RideStarted], model: Any) -> list[DurationPredicted]:
    predicted = model.predict(features(rides)).tolist()
    return [DurationPredicted(ride.ride_id, value) for ride, value in zip(rides, predicted, strict=True)]
