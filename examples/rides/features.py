"""Features of a ride, written once for training and for every deployment, and the columns to monitor.

The pick-up and drop-off pair and the distance, as in the well-known exercise, plus hour and weekday.
Each is a column of a sparse matrix, or a group of columns of which one is 1: a linear model on it has a
weight for every pair of zones, and is fast (the README has figures).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import scipy.sparse as sp  # type: ignore[import-untyped]  # it ships no types

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from examples.rides.events import RideStarted

_ZONES: Final = (
    266  # the TLC's zones are 1 to 265; 0 stands for every other zone, which training does not see
)
_HOURS: Final = 7 * 24
_FARTHEST: Final = 100.0

_PAIR: Final = 0
_PICKUP: Final = _PAIR + _ZONES * _ZONES
_DROPOFF: Final = _PICKUP + _ZONES
_HOUR: Final = _DROPOFF + _ZONES
_DISTANCE: Final = _HOUR + _HOURS
_ROOT: Final = _DISTANCE + 1
_DISTANCE_AT_HOUR: Final = _ROOT + 1
_ROOT_AT_HOUR: Final = _DISTANCE_AT_HOUR + _HOURS
WIDTH: Final = _ROOT_AT_HOUR + _HOURS
"""Number of columns. A model for another number was trained by another version of this file."""


def features(rides: Sequence[RideStarted]) -> sp.csr_array:
    """Return a matrix with a row for each ride and WIDTH columns.

    A row depends only on its own ride, to the last bit, and so does the prediction of a linear model: the
    products of a sparse row are added in the order of its columns, for any number of rows. Unknown zones
    share one column, which training does not see. Distances are clipped to 0 to 100 miles, so that a wrong
    one stays finite. `passenger_count` is not used.
    """
    rows = len(rides)
    pickup = _zones([ride.pickup_location_id for ride in rides])
    dropoff = _zones([ride.dropoff_location_id for ride in rides])
    hour = _hours_of_week([ride.pickup_datetime for ride in rides])
    distance = np.clip(np.fromiter([ride.trip_distance for ride in rides], np.float64, rows), 0.0, _FARTHEST)
    root = np.sqrt(distance)  # exact by IEEE 754 at any batch size; a vectorised log need not be
    blocks: tuple[tuple[Any, Any], ...] = (
        (_PAIR + pickup * _ZONES + dropoff, 1.0),
        (_PICKUP + pickup, 1.0),
        (_DROPOFF + dropoff, 1.0),
        (_HOUR + hour, 1.0),
        (_DISTANCE, distance),
        (_ROOT, root),
        (_DISTANCE_AT_HOUR + hour, distance),
        (_ROOT_AT_HOUR + hour, root),
    )
    columns = np.empty((rows, len(blocks)), np.int32)
    values = np.empty((rows, len(blocks)))
    for place, (column, value) in enumerate(blocks):
        columns[:, place] = column
        values[:, place] = value
    starts = np.arange(0, columns.size + 1, len(blocks), dtype=np.int32)
    return sp.csr_array((values.ravel(), columns.ravel(), starts), shape=(rows, WIDTH))


def monitored_columns(rides: Sequence[RideStarted]) -> dict[str, list[Any]]:
    """Return the columns in which to look for drift from the training sample. Zones are names, not numbers.

    The time is left out: a window of a few hours always differs from half a year.
    """
    return {
        "trip_distance": [ride.trip_distance for ride in rides],
        "pickup zone": [str(ride.pickup_location_id) for ride in rides],
        "dropoff zone": [str(ride.dropoff_location_id) for ride in rides],
        "passenger_count": [ride.passenger_count for ride in rides],
    }


def _zones(ids: list[int]) -> NDArray[np.int64]:
    zones = np.fromiter(ids, np.int64, len(ids))
    zones[(zones < 0) | (zones >= _ZONES)] = 0
    return zones


def _hours_of_week(times: list[datetime]) -> NDArray[np.int64]:
    if any([time.tzinfo is not None for time in times]):  # noqa: C419 - a list is faster than a generator
        times = [time if time.tzinfo is None else time.astimezone(_new_york()) for time in times]
    return np.fromiter([24 * time.weekday() + time.hour for time in times], np.int64, len(times))


@functools.cache
def _new_york() -> ZoneInfo:
    """Return the time zone; only times with an offset need it, as a small container may lack its database."""
    return ZoneInfo("America/New_York")
