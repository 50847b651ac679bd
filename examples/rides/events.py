"""The events of the example, as they travel on its topics."""

from datetime import datetime
from typing import Annotated

import msgspec

Zone = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
"""A taxi zone. One that no model has met is fine; what cannot be a zone at all is refused at decoding."""


class RideStarted(msgspec.Struct, frozen=True, gc=False):
    """A passenger got in.

    Attributes:
        trip_distance: In miles, as the meter or the route planner has it.
        pickup_datetime: Naive times are New York's, as in the city's own records; others say their offset.
        passenger_count: As the driver entered it, and drivers often do not.
    """

    ride_id: str
    pickup_location_id: Zone
    dropoff_location_id: Zone
    trip_distance: float
    pickup_datetime: datetime
    passenger_count: int | None = None


class DurationPredicted(msgspec.Struct, frozen=True, gc=False):
    """How long the ride will take."""

    ride_id: str
    minutes: float


class TipPredicted(msgspec.Struct, frozen=True, gc=False):
    """What the passenger will tip if they pay by card, in dollars."""

    ride_id: str
    amount: float


class LongRide(msgspec.Struct, frozen=True, gc=False):
    """An alarm: the ride is predicted to take over an hour."""

    ride_id: str
    minutes: float
