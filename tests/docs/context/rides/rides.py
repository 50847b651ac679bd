"""The app that the pages take as known: two predictors of the same rides."""

import msgspec

from eventml import Bus

bus = Bus("rides")


class RideStarted(msgspec.Struct):
    ride_id: str
    trip_distance: float


class DurationPredicted(msgspec.Struct):
    ride_id: str
    minutes: float


bus.topic("rides.started", event_type=RideStarted, id_field="ride_id")


@bus.predictor("rides.started", to="rides.duration", model="models/duration.skops")
def duration(rides: list[RideStarted], model) -> list[DurationPredicted]:
    minutes = model.predict([[ride.trip_distance] for ride in rides])
    return [DurationPredicted(ride.ride_id, m) for ride, m in zip(rides, minutes, strict=True)]


@bus.predictor("rides.started", to="rides.tip")
def tip(ride: RideStarted) -> float:
    return 0.2 * ride.trip_distance
