"""What is watched of rides, to notice when they are no longer those that the models learnt from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.rides.events import RideStarted


def watched(rides: Sequence[RideStarted]) -> dict[str, list[Any]]:
    """The rides in columns. Zones are names, not numbers.

    The time is left out: a window of a few hours always differs from half a year.
    """
    return {
        "trip_distance": [ride.trip_distance for ride in rides],
        "pickup zone": [str(ride.pickup_location_id) for ride in rides],
        "dropoff zone": [str(ride.dropoff_location_id) for ride in rides],
        "passenger_count": [ride.passenger_count for ride in rides],
    }
