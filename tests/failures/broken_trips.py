"""Trips with fields broken at random, and an app that predicts from them.

As a command it reads real trips, and prints how many were answered and how many are dead letters:

    python -m tests.failures.broken_trips yellow_tripdata_2019-01.csv
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import chain
from random import Random
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec
import numpy as np

from examples.rides import tlc
from examples.rides.events import DurationPredicted, RideStarted
from examples.rides.features import WIDTH, features
from examples.rides.trips import ride_events
from tests.failures.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterable

MISSING: Final = object()
_NO_ZONE: Final = ["230", "", -1, 2**31, 10**25, 1.5, None, [1], MISSING]
BREAKS: Final[dict[str, list[Any]]] = {
    "ride_id": [17, None, ["a"], {}, MISSING],
    "pickup_location_id": _NO_ZONE,
    "dropoff_location_id": _NO_ZONE,
    "trip_distance": ["far", "1.5", None, [], False, MISSING],
    "pickup_datetime": ["yesterday", "2019-02-30T08:00:00", 17, None, "", MISSING],
    "passenger_count": ["two", "", 1.5, [1], True],
}
"""For each field, values that it cannot have. Only the number of passengers may be missing."""

_WEIGHTS: Final = np.linspace(0.5, 3.0, WIDTH)


def broken(
    events: Iterable[dict[str, Any]], share: float, seed: int
) -> tuple[list[bytes], dict[int, list[str]]]:
    """The events' values, each field broken in this share of them, and the broken fields by position."""
    random = Random(seed)
    values: list[bytes] = []
    broken_fields: dict[int, list[str]] = {}
    for position, event in enumerate(events):
        chosen = [field for field in BREAKS if random.random() < share]
        if chosen:
            broken_fields[position] = chosen
        changed = {**event, **{field: random.choice(BREAKS[field]) for field in chosen}}
        values.append(msgspec.json.encode({f: v for f, v in changed.items() if v is not MISSING}))
    return values, broken_fields


def predict(scenario: Scenario) -> None:
    """Register a predictor with the features of the example."""

    @scenario.bus.predictor(scenario.topic, to=scenario.to)
    def duration(rides: list[RideStarted]) -> list[DurationPredicted]:
        minutes = (features(rides) @ _WEIGHTS).tolist()
        return [DurationPredicted(ride.ride_id, value) for ride, value in zip(rides, minutes, strict=True)]


def decodes(value: bytes) -> bool:
    try:
        msgspec.json.decode(value, type=RideStarted)
    except msgspec.DecodeError:
        return False
    return True


async def _main(files: list[str]) -> None:
    scenario = Scenario("memory://broken-trips?retention=10000000")
    predict(scenario)
    events = list(ride_events(tlc.read(files)))
    values, broken_fields = broken(events, 0.01, seed=1)
    unfit = {position for position, event in enumerate(events) if not decodes(msgspec.json.encode(event))}
    await scenario.run(values)
    bad = unfit | set(broken_fields)
    scenario.check(answered=set(range(len(values))) - bad, dead_letters=bad)
    fields = Counter(chain.from_iterable(broken_fields.values()))
    print(f"{len(values)} trips: {len(scenario.outputs)} answered, {len(scenario.dead_letters)} dead letters")  # noqa: T201
    unfit -= set(broken_fields)
    print(f"{len(broken_fields)} were broken {dict(fields)}, {len(unfit)} more were unfit before")  # noqa: T201


if __name__ == "__main__":
    anyio.run(_main, sys.argv[1:])
