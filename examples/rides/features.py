"""What the models see of a ride: written once, for training and for every way of deploying.

The pick-up and drop-off pair and the distance, as in the well-known exercise, plus hour and weekday.
Each is a column, or a one among many columns, of a sparse matrix: a linear model on it forgets no pair
of zones, and costs little (the README has figures).
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

_ZONES: Final = 266  # the TLC's are 1 to 265; 0 stands for any other, of which a model has learnt nothing
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
"""How many columns there are. A model for another number of them was trained by another version."""


def features(rides: Sequence[RideStarted]) -> sp.csr_array:
    """One row a ride, of WIDTH columns.

    A row depends on its own ride alone, to the last bit, and so does what a linear model makes of it:
    a sparse row's products are added in the order of its columns, however many rows there are. Zones
    that the city does not have are one zone that has taught nothing; distances are cut to 0 to 100
    miles, so that a meter's slip stays finite. `passenger_count` is not used.
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
    """Looked up only for times with an offset: a small container may lack the database of zones."""
    return ZoneInfo("America/New_York")
