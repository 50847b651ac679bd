"""The same service without this library: a FastAPI app that calls the model for each request."""

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.web_models import features, load

app = FastAPI()
model = load()


class Ride(BaseModel):
    ride_id: str
    pickup_location_id: int
    dropoff_location_id: int
    trip_distance: float
    pickup_datetime: str
    passenger_count: int
    vendor: str
    note: str


class Duration(BaseModel):
    ride_id: str
    minutes: float


@app.post("/predict/minutes")  # type: ignore[untyped-decorator]  # FastAPI is not looked into
def minutes(ride: Ride) -> Duration:
    return Duration(ride_id=ride.ride_id, minutes=float(model.predict(features([ride]))[0]))
