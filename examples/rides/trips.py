"""Trips: finished rides, as columns, with the truth that a prediction is scored against."""

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
"""In minutes. What is shorter or longer was a mistake, or a meter left running, and no ride."""

CARD: Final = 1
"""The payment type of a ride paid by card; 2 is cash."""

_CHUNK: Final = 8192
_LAST_ZONE: Final = 2**31 - 1
_EXACT: Final = 2.0**53  # beyond it a float no longer holds every whole number


class TripsError(EventMLError):
    """Trips cannot be read, or cannot be used. The message names the file or the column."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trips:
    """Trips in columns of one length. An empty cell is NaN, or NaT among times.

    Attributes:
        sources: What the trips came from, by name. No two are the same.
        source: Each trip's place in `sources`.
        row: Its row there, from 0.
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
        """The trips at a slice, a mask or positions. They keep their ids."""
        return Trips(self.sources, *(column[index] for column in self._columns()))

    @property
    def minutes(self) -> Floats:
        """How long each trip took: the truth of the duration model."""
        return (self.dropoff_datetime - self.pickup_datetime) / np.timedelta64(1, "m")

    @property
    def is_ride(self) -> Mask:
        """Which trips can have been a ride, and so teach a model and score it."""
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
        """Which rides were paid by card, and so have their true tip on record.

        The records hold no tip paid in cash: such a ride has a tip of 0, whatever the driver was given.
        A ride event does not say how the ride will be paid, so no model could tell these zeros apart.
        """
        mask: Mask = (
            self.is_ride & (self.payment_type == CARD) & ~(self.fare_amount < 0) & (self.tip_amount >= 0)
        )
        return mask

    def ride_ids(self) -> list[str]:
        """Each trip's id: its source and its row there, so the same at every reading."""
        pairs = zip(self.source.tolist(), self.row.tolist(), strict=True)
        return [f"{self.sources[source]}-{row}" for source, row in pairs]

    def _columns(self) -> list[NDArray[Any]]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)[1:]]


def join(parts: Sequence[Trips]) -> Trips:
    """The trips of several sources as one, in order. Sources of one name get a number each."""
    names: list[str] = []
    shifted = []
    for part in parts:
        shifted.append(dataclasses.replace(part, source=part.source + len(names)))
        names += part.sources
    columns = zip(*(part._columns() for part in shifted), strict=True)  # noqa: SLF001 - the class's own module
    return Trips(_distinct(names), *(np.concatenate(column) for column in columns))


def ride_events(trips: Trips) -> Iterator[dict[str, Any]]:
    """What a producer publishes for each trip: the ride as it started, in the order of the trips.

    Nothing is left out and nothing repaired: an impossible trip is an event like any other, and a cell
    that is empty or no whole number stands in the event as it is, for the consumer's decoder to refuse.
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
    """The events of trips as a consumer sees them, decoded.

    Raises:
        msgspec.ValidationError: One of them cannot be decoded. Those that `is_ride` can.
    """
    return [msgspec.convert(event, RideStarted) for event in ride_events(trips)]


def _distinct(names: list[str]) -> tuple[str, ...]:
    """The names, where one that stands there already gets a number behind it."""
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
    """The column with whole numbers as such: TLC files hold counts as floats where any is empty."""
    return [
        int(value) if value is not None and abs(value) < _EXACT and value.is_integer() else value
        for value in _plain(column)
    ]


def _is_zone(column: Floats) -> Mask:
    mask: Mask = (column >= 1) & (column <= _LAST_ZONE) & (column % 1 == 0)
    return mask
