"""Trips: finished rides in columns, with the true values that predictions are scored against."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from eventml.errors import EventMLError
from examples.rides.events import RideStarted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]
    Times = NDArray[np.datetime64]

SHORTEST: Final = 1.0
LONGEST: Final = 180.0
"""In minutes. A shorter or longer trip is an error, or a meter that was left running."""

CARD: Final = 1
"""Payment type of a ride that was paid by card; 2 is cash."""

_CHUNK: Final = 8192
_LAST_ZONE: Final = 2**31 - 1
_EXACT: Final = 2.0**53  # above it a float cannot hold every whole number


class TripsError(EventMLError):
    """Trips cannot be read, or cannot be used. The message names the file or the column."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trips:
    """Trips in columns of one length. An empty cell is NaN, or NaT among times.

    Attributes:
        sources: Names of the sources of the trips, without duplicates.
        source: Index in `sources` of each trip.
        row: Row of each trip in its source, from 0.
    """

    sources: tuple[str, ...]
    source: NDArray[np.int64]
    row: NDArray[np.int64]
    pickup_datetime: Times
    dropoff_datetime: Times
    passenger_count: Floats
    trip_distance: Floats
    pickup_location_id: Floats
    dropoff_location_id: Floats
    payment_type: Floats
    fare_amount: Floats
    tip_amount: Floats

    def __len__(self) -> int:
        return len(self.row)

    def take(self, index: slice | NDArray[Any]) -> Trips:
        """Return the trips at a slice, a mask or positions. They keep their ids."""
        return Trips(self.sources, *(column[index] for column in self._columns()))

    @property
    def minutes(self) -> Floats:
        """Duration of each trip: the true value of the duration model."""
        return (self.dropoff_datetime - self.pickup_datetime) / np.timedelta64(1, "m")

    @property
    def is_ride(self) -> Mask:
        """Which trips are possible rides, to train and score models on."""
        mask: Mask = (
            (self.trip_distance > 0)
            & np.isfinite(self.trip_distance)
            & (self.minutes >= SHORTEST)
            & (self.minutes <= LONGEST)
            & _is_zone(self.pickup_location_id)
            & _is_zone(self.dropoff_location_id)
            & (np.isnan(self.passenger_count) | (self.passenger_count % 1 == 0))
        )
        return mask

    @property
    def is_tipped(self) -> Mask:
        """Which rides were paid by card, so that their true tip is recorded.

        Tips in cash are not recorded: such a ride has a tip of 0. A ride event does not hold the payment
        type, so no model could tell these zeros apart.
        """
        mask: Mask = (
            self.is_ride & (self.payment_type == CARD) & ~(self.fare_amount < 0) & (self.tip_amount >= 0)
        )
        return mask

    def ride_ids(self) -> list[str]:
        """Return the id of each trip: its source and row, so that it is the same each time it is read."""
        pairs = zip(self.source.tolist(), self.row.tolist(), strict=True)
        return [f"{self.sources[source]}-{row}" for source, row in pairs]

    def _columns(self) -> list[NDArray[Any]]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)[1:]]


def join(parts: Sequence[Trips]) -> Trips:
    """Concatenate the trips of several sources, in order. Sources of the same name are numbered."""
    names: list[str] = []
    shifted = []
    for part in parts:
        shifted.append(dataclasses.replace(part, source=part.source + len(names)))
        names += part.sources
    columns = zip(*(part._columns() for part in shifted), strict=True)  # noqa: SLF001 - the class's own module
    return Trips(_distinct(names), *(np.concatenate(column) for column in columns))


def ride_events(trips: Trips) -> Iterator[dict[str, Any]]:
    """Yield the event that a producer publishes at the start of each trip, in the order of the trips.

    Nothing is left out or repaired: an impossible trip gives an event too, and a cell that is empty or not
    a whole number is published unchanged, so that decoding fails at the consumer.
    """
    for start in range(0, len(trips), _CHUNK):
        part = trips.take(slice(start, start + _CHUNK))
        rows = zip(
            part.ride_ids(),
            _whole(part.pickup_location_id),
            _whole(part.dropoff_location_id),
            _plain(part.trip_distance),
            part.pickup_datetime.astype("datetime64[us]").tolist(),
            _whole(part.passenger_count),
            strict=True,
        )
        for row in rows:
            yield dict(zip(RideStarted.__struct_fields__, row, strict=True))


def rides(trips: Trips) -> list[RideStarted]:
    """Return the decoded events of trips, as a consumer gets them.

    Raises:
        msgspec.ValidationError: One of them cannot be decoded. All trips of `is_ride` can.
    """
    return [msgspec.convert(event, RideStarted) for event in ride_events(trips)]


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Return the names, with a number after each name that was used before."""
    taken: list[str] = []
    for name in names:
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}~{number}"
        taken.append(free)
    return tuple(taken)


def _plain(column: Floats) -> list[float | None]:
    return [value if -np.inf < value < np.inf else None for value in column.tolist()]


def _whole(column: Floats) -> list[int | float | None]:
    """Return whole numbers as int: TLC files hold counts as floats if any is empty."""
    return [
        int(value) if value is not None and abs(value) < _EXACT and value.is_integer() else value
        for value in _plain(column)
    ]


def _is_zone(column: Floats) -> Mask:
    mask: Mask = (column >= 1) & (column <= _LAST_ZONE) & (column % 1 == 0)
    return mask
