"""Generated trips, for use without a download, in a made-up city that is the same for every seed."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from examples.rides.trips import Trips

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

_ZONES: Final = 263
_CORE: Final = 69  # zones of the dense centre, where most rides begin and end
_AIRPORTS: Final = ((9.0, 3.0), (14.0, -4.0))
_FIRST_DAY: Final = np.datetime64("2024-01-01T00:00:00", "us")  # a Monday
_WEEKS: Final = 26
_IMPOSSIBLE: Final = 0.02
_UNCOUNTED: Final = 0.01
_CARD, _CASH, _NO_CHARGE, _DISPUTE = 1, 2, 3, 4


class _City(NamedTuple):
    """Geometry and traffic of the city.

    Attributes:
        miles: Miles by road from zone to zone.
        pairs: Cumulative probability of the pairs of zones, not normalised.
        pace: Speed of the traffic in each zone, relative to the average.
        hours: Probability of each hour of the week.
        speed: Miles an hour in each hour of the week.
    """

    miles: Floats
    pairs: Floats
    pace: Floats
    hours: Floats
    speed: Floats


def generate(events: int, seed: int = 0, *, part: Literal["train", "live"] = "train") -> Trips:
    """Generate trips of half a year, in the order of their pick-ups; the same for the same arguments.

    Trips have the columns of the TLC's records, and their flaws: about one in fifty is impossible (no
    distance, seconds or a day long, a negative fare), one in a hundred has no passenger count, and tips are
    recorded only if paid by card. Every trip can be published as a ride and decoded.

    Args:
        events: Number of trips.
        seed: Seed of the trips; the city is always the same.
        part: Trips to train on or trips to stream; the two parts have no trip in common.
    """
    random = np.random.default_rng([seed, 0 if part == "train" else 1])
    city = _city()
    start, hour = _starts(random, city, events)
    pair = np.searchsorted(city.pairs, random.random(events) * city.pairs[-1], side="right")
    pickup, dropoff = np.divmod(pair, _ZONES)
    miles = np.maximum(city.miles[pickup, dropoff] * random.lognormal(0.0, 0.15, events), 0.1).round(2)
    hours = miles / _speed(city, hour, pickup, dropoff, miles)
    minutes = (1.5 + 60 * hours) * random.lognormal(0.0, 0.25, events)
    fare = (2.5 + 2.5 * miles + 0.15 * minutes).round(1)
    payment = random.choice([_CARD, _CASH, _NO_CHARGE, _DISPUTE], events, p=[0.72, 0.27, 0.006, 0.004])
    tip = np.where(payment == _CARD, _tip(random, fare), 0.0)
    _spoil(random, miles, minutes, fare)
    return Trips(
        sources=(f"{part}-{seed}",),
        source=np.zeros(events, np.int64),
        row=np.arange(events),
        pickup_datetime=start,
        dropoff_datetime=start + _seconds((minutes * 60).round().astype(np.int64)),
        passenger_count=_passengers(random, events),
        trip_distance=miles,
        pickup_location_id=pickup + 1.0,
        dropoff_location_id=dropoff + 1.0,
        payment_type=payment.astype(np.float64),
        fare_amount=fare,
        tip_amount=tip,
    )


def _starts(random: np.random.Generator, city: _City, events: int) -> tuple[NDArray[np.datetime64], Ints]:
    """Return the start of each trip, earliest first, and its hour of the week."""
    hour = random.choice(168, events, p=city.hours)
    seconds = (random.integers(0, _WEEKS, events) * 168 + hour) * 3600 + random.integers(0, 3600, events)
    seconds.sort()
    return _FIRST_DAY + _seconds(seconds), seconds // 3600 % 168


def _speed(city: _City, hour: Ints, pickup: Ints, dropoff: Ints, miles: Floats) -> Floats:
    """Return the speed of each trip: slower by day, in some zones, and over short distances."""
    pace: Floats = np.sqrt(city.pace[pickup] * city.pace[dropoff])
    return (city.speed[hour] + 0.5 * np.minimum(miles, 20.0)) * pace


def _tip(random: np.random.Generator, fare: Floats) -> Floats:
    """Return tips of about a fifth of the fare; some are 0, and some are rounded up to whole dollars."""
    tip = 0.2 * (fare + 3.3) * random.lognormal(0.0, 0.3, len(fare))
    habit = random.random(len(fare))
    tip = np.where(habit < 0.05, 0.0, np.where(habit < 0.2, np.ceil(tip), tip))
    return tip.round(2)


def _passengers(random: np.random.Generator, events: int) -> Floats:
    count = random.choice(7, events, p=[0.02, 0.71, 0.15, 0.04, 0.02, 0.04, 0.02]).astype(np.float64)
    count[random.random(events) < _UNCOUNTED] = np.nan
    return count


def _spoil(random: np.random.Generator, miles: Floats, minutes: Floats, fare: Floats) -> None:
    """Make a few trips impossible, as in real records."""
    chosen = np.flatnonzero(random.random(len(miles)) < _IMPOSSIBLE)
    nowhere, at_once, all_day, refunded = np.array_split(random.permutation(chosen), 4)
    miles[nowhere] = 0.0
    minutes[at_once] = random.uniform(0.0, 0.9, len(at_once))
    minutes[all_day] = random.uniform(200.0, 1439.0, len(all_day))
    fare[refunded] *= -1.0


def _seconds(count: NDArray[np.int64]) -> NDArray[np.timedelta64]:
    return count * np.timedelta64(1_000_000, "us")


@functools.cache
def _city() -> _City:
    random = np.random.default_rng(1811)  # a constant: only the trips depend on the caller's seed
    spots, visits = _zones(random)
    apart = np.abs(spots[:, None] - spots[None, :])
    miles = 0.6 + 1.3 * np.hypot(apart[..., 0], apart[..., 1])
    pairs = visits[:, None] * visits[None, :] * np.exp(-miles / 2.0)
    airports = np.arange(_ZONES - len(_AIRPORTS), _ZONES)
    pairs[airports] = (
        visits[airports, None] * visits[None, :] * 0.12
    )  # rides to and from airports cover any distance
    pairs[:, airports] = visits[:, None] * visits[None, airports] * 0.12
    middle = np.hypot(*spots.T)
    pace = np.clip(0.8 + middle / 20.0, 0.0, 1.3) * random.uniform(0.9, 1.1, _ZONES)
    hours, speed = _week()
    return _City(miles, np.cumsum(pairs), pace, hours, speed)


def _zones(random: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the position of each zone in miles from the centre, and its share of visits."""
    core = random.uniform((-1.2, -4.5), (1.2, 4.5), (_CORE, 2))
    outside = random.normal(0.0, (6.0, 5.0), (_ZONES - _CORE - len(_AIRPORTS), 2))
    spots = np.concatenate([core, outside, _AIRPORTS])
    visits = random.lognormal(0.0, 0.6, _ZONES)
    visits[_CORE:] *= 0.05
    visits[-len(_AIRPORTS) :] = 1.5
    return spots, visits


def _week() -> tuple[Floats, Floats]:
    """Return the share of rides and the speed in each hour of the week, from Monday 0:00."""
    clock = np.arange(168) % 24
    weekend = np.arange(168) >= 5 * 24
    night = np.exp(-(((clock - 4.0) / 2.5) ** 2))  # least traffic at four in the morning
    evening = np.exp(-(((clock - 19.0) / 3.5) ** 2))
    rush = np.where(
        weekend, 0.0, np.exp(-(((clock - 8.5) / 1.5) ** 2)) + np.exp(-(((clock - 17.5) / 2.0) ** 2))
    )
    rides = 1.0 - 0.9 * night * np.where(weekend, 0.5, 1.0) + 0.5 * evening
    speed = 10.5 + 9.0 * night + np.where(weekend, 1.5, 0.0) - 2.0 * rush
    return rides / rides.sum(), speed
