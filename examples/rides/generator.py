"""Plausible trips without a download: a made-up city, the same for every seed."""

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
_CORE: Final = 69  # zones of the dense middle, where most rides begin and end
_AIRPORTS: Final = ((9.0, 3.0), (14.0, -4.0))
_FIRST_DAY: Final = np.datetime64("2024-01-01T00:00:00", "us")  # a Monday
_WEEKS: Final = 26
_IMPOSSIBLE: Final = 0.02
_UNCOUNTED: Final = 0.01
_CARD, _CASH, _NO_CHARGE, _DISPUTE = 1, 2, 3, 4


class _City(NamedTuple):
    """Its geometry and its habits.

    Attributes:
        miles: By road from zone to zone.
        pairs: How likely each pair of zones is, summed up in the order of the pairs.
        pace: By zone, how freely the traffic flows around it; 1 is the average.
        hours: How likely each hour of the week is.
        speed: Miles an hour, by hour of the week.
    """

    miles: Floats
    pairs: Floats
    pace: Floats
    hours: Floats
    speed: Floats


def generate(events: int, seed: int = 0, *, part: Literal["train", "live"] = "train") -> Trips:
    """That many trips of half a year, in the order of their pick-ups; the same ones for the same arguments.

    Trips have the columns that the TLC's have, and its records' flaws: about one in fifty is impossible
    (no distance, seconds or a day long, a negative fare), one in a hundred has no passenger count, and
    tips are on record only where paid by card. Every trip can be published as a ride and decoded.

    Args:
        events: How many.
        seed: Chooses the trips; the city stays as it is.
        part: Trips to learn from or trips to stream: those of one part are never those of the other.
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
    """When each trip begins, earliest first, and its hour of the week."""
    hour = random.choice(168, events, p=city.hours)
    seconds = (random.integers(0, _WEEKS, events) * 168 + hour) * 3600 + random.integers(0, 3600, events)
    seconds.sort()
    return _FIRST_DAY + _seconds(seconds), seconds // 3600 % 168


def _speed(city: _City, hour: Ints, pickup: Ints, dropoff: Ints, miles: Floats) -> Floats:
    """Slow by day, in some zones, and on short ways."""
    pace: Floats = np.sqrt(city.pace[pickup] * city.pace[dropoff])
    return (city.speed[hour] + 0.5 * np.minimum(miles, 20.0)) * pace


def _tip(random: np.random.Generator, fare: Floats) -> Floats:
    """A fifth of the fare, more or less; some give nothing, and some round up to whole dollars."""
    tip = 0.2 * (fare + 3.3) * random.lognormal(0.0, 0.3, len(fare))
    habit = random.random(len(fare))
    tip = np.where(habit < 0.05, 0.0, np.where(habit < 0.2, np.ceil(tip), tip))
    return tip.round(2)


def _passengers(random: np.random.Generator, events: int) -> Floats:
    count = random.choice(7, events, p=[0.02, 0.71, 0.15, 0.04, 0.02, 0.04, 0.02]).astype(np.float64)
    count[random.random(events) < _UNCOUNTED] = np.nan
    return count


def _spoil(random: np.random.Generator, miles: Floats, minutes: Floats, fare: Floats) -> None:
    """Turn a few trips into what the records hold besides rides."""
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
    random = np.random.default_rng(1811)  # the city is one: only its trips depend on the caller's seed
    spots, visits = _zones(random)
    apart = np.abs(spots[:, None] - spots[None, :])
    miles = 0.6 + 1.3 * np.hypot(apart[..., 0], apart[..., 1])
    pairs = visits[:, None] * visits[None, :] * np.exp(-miles / 2.0)
    airports = np.arange(_ZONES - len(_AIRPORTS), _ZONES)
    pairs[airports] = visits[airports, None] * visits[None, :] * 0.12  # people fly from anywhere
    pairs[:, airports] = visits[:, None] * visits[None, airports] * 0.12
    middle = np.hypot(*spots.T)
    pace = np.clip(0.8 + middle / 20.0, 0.0, 1.3) * random.uniform(0.9, 1.1, _ZONES)
    hours, speed = _week()
    return _City(miles, np.cumsum(pairs), pace, hours, speed)


def _zones(random: np.random.Generator) -> tuple[Floats, Floats]:
    """Where each zone is, in miles from the middle, and how many go there."""
    core = random.uniform((-1.2, -4.5), (1.2, 4.5), (_CORE, 2))
    outside = random.normal(0.0, (6.0, 5.0), (_ZONES - _CORE - len(_AIRPORTS), 2))
    spots = np.concatenate([core, outside, _AIRPORTS])
    visits = random.lognormal(0.0, 0.6, _ZONES)
    visits[_CORE:] *= 0.05
    visits[-len(_AIRPORTS) :] = 1.5
    return spots, visits


def _week() -> tuple[Floats, Floats]:
    """How many rides begin in each hour of the week, as shares, and how fast they are, from Monday 0:00."""
    clock = np.arange(168) % 24
    weekend = np.arange(168) >= 5 * 24
    night = np.exp(-(((clock - 4.0) / 2.5) ** 2))  # deepest at four in the morning
    evening = np.exp(-(((clock - 19.0) / 3.5) ** 2))
    rush = np.where(
        weekend, 0.0, np.exp(-(((clock - 8.5) / 1.5) ** 2)) + np.exp(-(((clock - 17.5) / 2.0) ** 2))
    )
    rides = 1.0 - 0.9 * night * np.where(weekend, 0.5, 1.0) + 0.5 * evening
    speed = 10.5 + 9.0 * night + np.where(weekend, 1.5, 0.0) - 2.0 * rush
    return rides / rides.sum(), speed
