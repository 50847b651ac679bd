"""BentoML with its adaptive batching: `bentoml serve benchmarks.web_bentoml:Minutes`, in its own venv."""

from __future__ import annotations

import bentoml
from pydantic import BaseModel

from benchmarks.web_models import features, load


class Ride(BaseModel):
    ride_id: str
    pickup_location_id: int
    dropoff_location_id: int
    trip_distance: float
    pickup_datetime: str
    passenger_count: int
    vendor: str
    note: str


@bentoml.service(workers=1, traffic={"timeout": 60})  # type: ignore[untyped-decorator, unused-ignore]
class Minutes:
    def __init__(self) -> None:
        self.model = load()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1_000, route="/predict/minutes")  # type: ignore[untyped-decorator, unused-ignore]
    def minutes(self, rides: list[Ride]) -> list[float]:
        predicted: list[float] = self.model.predict(features(rides)).tolist()
        return predicted
