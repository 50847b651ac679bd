"""One stream of rides, three predictors: two read the rides, and one reads a prediction.

    eventml run examples.rides.app:bus

Models are loaded from `$RIDES_MODELS`, or the user's cache. Missing models are trained once on generated
trips, which takes a few seconds.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from eventml import Artefact, Bus, Model
from eventml.models import load
from examples.rides.events import DurationPredicted, LongRide, RideStarted, TipPredicted
from examples.rides.features import features
from examples.rides.targets import DURATION, TIP

if TYPE_CHECKING:
    from sklearn.linear_model import Ridge

LONG = 60.0
"""Minutes; a ride that is predicted to take longer raises an alarm."""

bus = Bus("rides")
bus.topic("rides.started", event_type=RideStarted, id_field="ride_id")


def trained(name: str) -> Model:
    """Load a model by name; train it first if it is missing."""
    from examples.rides.train import ensure_models, model_version  # noqa: PLC0415 - only workers need it

    folder = ensure_models()
    artefact = Artefact(folder / f"{name}.skops", version=model_version(folder, name))
    return load(artefact, name=name)


@bus.predictor("rides.started", to="rides.duration", model=partial(trained, "duration"))
def duration(rides: list[RideStarted], model: Ridge) -> list[DurationPredicted]:
    """Predict how long each ride takes."""
    minutes = np.maximum(model.predict(features(rides)), DURATION.least).tolist()
    return [DurationPredicted(ride.ride_id, value) for ride, value in zip(rides, minutes, strict=True)]


@bus.predictor("rides.started", to="rides.tip", model=partial(trained, "tip"))
def tip(rides: list[RideStarted], model: Ridge) -> list[TipPredicted]:
    """Predict the tip of each ride, if it is paid by card."""
    dollars = np.maximum(model.predict(features(rides)), TIP.least).tolist()
    return [TipPredicted(ride.ride_id, value) for ride, value in zip(rides, dollars, strict=True)]


@bus.predictor("rides.duration", to="rides.alarm")
async def alarm(ride: DurationPredicted) -> LongRide | None:
    """Raise an alarm for a ride that is predicted to take longer than `LONG`."""
    return LongRide(ride.ride_id, ride.minutes) if ride.minutes > LONG else None
