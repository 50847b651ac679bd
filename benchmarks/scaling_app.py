"""A forest of 100 trees on a stream of rides, which `benchmarks.scaling` runs in 1, 2 and 4 workers.

For `benchmarks.simulation` the topics can have another name, which decides on a cluster's node, the batches
another size, and the model can be none at all.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import DurationPredicted, RideStarted, no_op
from eventml import Artefact, Bus

BATCH = int(os.environ.get("SCALING_BATCH", "1024"))
NAME = os.environ.get("SCALING_NAME", "scaling")
MODEL = os.environ.get("SCALING_MODEL", "forest.skops")
bus = Bus("scaling")
_waited = False


def wait_for_the_others() -> None:
    """Report that this process is ready, and wait until all are, so that start-up is not measured."""
    global _waited
    if _waited or "SCALING_GATE" not in os.environ:
        return
    _waited, gate = True, Path(os.environ["SCALING_GATE"])
    (gate / f"up-{os.getpid()}").touch()
    while not (gate / "go").exists():
        time.sleep(0.005)


def features(rides: list[RideStarted]) -> Any:
    return np.array(
        [
            (
                r.pickup_location_id,
                r.dropoff_location_id,
                r.trip_distance,
                r.passenger_count,
                r.pickup_location_id % 7,
            )
            for r in rides
        ]
    )


def durations(rides: list[RideStarted], model: Any) -> list[DurationPredicted]:
    """Predict with a forest."""
    predicted = model.predict(features(rides)).tolist()
    return [DurationPredicted(ride.ride_id, value) for ride, value in zip(rides, predicted, strict=True)]


if MODEL:

    @bus.predictor(f"{NAME}.rides", to=f"{NAME}.minutes", model=Artefact(Path(MODEL)), max_batch=BATCH)
    def minutes(rides: list[RideStarted], model: Any) -> list[DurationPredicted]:
        wait_for_the_others()
        return durations(rides, model)

else:

    @bus.predictor(f"{NAME}.rides", to=f"{NAME}.minutes", max_batch=BATCH, name="minutes")
    def nothing(rides: list[RideStarted]) -> list[DurationPredicted]:
        wait_for_the_others()
        return no_op(rides)
