"""The event types of the example's topics."""

from datetime import datetime
from typing import Annotated

import msgspec

Zone = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
"""A taxi zone. Models accept zones that they were not trained on; decoding fails for an impossible one."""


class RideStarted(msgspec.Struct, frozen=True, gc=False):
    """A passenger got in.

    Attributes:
        trip_distance: In miles, from the meter or a route planner.
        pickup_datetime: A time without an offset is New York time, as in the city's records.
        passenger_count: As entered by the driver; often missing.
    """

    ride_id: str
    pickup_location_id: Zone
    dropoff_location_id: Zone
    trip_distance: float
    pickup_datetime: datetime
    passenger_count: int | None = None


class DurationPredicted(msgspec.Struct, frozen=True, gc=False):
    """The predicted duration of a ride."""

    ride_id: str
    minutes: float


class TipPredicted(msgspec.Struct, frozen=True, gc=False):
    """The predicted tip of a ride in dollars, if the passenger pays by card."""

    ride_id: str
    amount: float


class LongRide(msgspec.Struct, frozen=True, gc=False):
    """An alarm for a ride that is predicted to take over an hour."""

    ride_id: str
    minutes: float
