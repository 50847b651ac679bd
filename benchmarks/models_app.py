"""A model that is replaced while three workers predict, which `benchmarks.models` runs."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.measuring import DurationPredicted, RideStarted
from benchmarks.redis_cases import BATCH, GROUP, SOURCE, TARGET
from benchmarks.web_models import features
from eventml import Bus

bus = Bus("models")


@bus.predictor(
    SOURCE,
    to=TARGET,
    group=GROUP,
    max_batch=BATCH,
    model=os.environ.get("MODELS_MODEL", "model.skops"),
    model_poll=0.5,
)
def duration(rides: list[RideStarted], model: Any) -> list[DurationPredicted]:
    minutes = model.predict(features(rides)).tolist()
    return [DurationPredicted(ride.ride_id, value) for ride, value in zip(rides, minutes, strict=True)]
