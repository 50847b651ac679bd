"""One more reader of the same stream: whether the rides still look like those that the models know.

    eventml run examples.rides.watch:bus

Every so many rides it compares them with the training sample. What has drifted is an event on
`rides.drift`, whoever reads that, and the alarm here is one of them: the function that
`$RIDES_ALARM` names as MODULE:FUNCTION, or a line on stderr.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from eventml import Bus
from examples.monitoring import profiles
from examples.monitoring.alarms import Alarm, Crossing, drifted, find_alarm, ring
from examples.monitoring.window import Window
from examples.rides.events import RideStarted
from examples.rides.train import ensure_models
from examples.rides.watched import watched

if TYPE_CHECKING:
    from collections.abc import Iterator

RIDES: Final = 2_000
"""How many rides are compared at a time."""

ALARM: Final = "RIDES_ALARM"

bus = Bus("rides-watch")
bus.topic("rides.started", event_type=RideStarted, id_field="ride_id")


class Drifted(msgspec.Struct, frozen=True):
    """The last rides differ from those of the training sample.

    Attributes:
        until: The last of them.
        crossings: Which features crossed their limit.
    """

    until: str
    crossings: list[Crossing]


@bus.lifespan
def window() -> Iterator[Window]:
    """A worker's own: workers who share the stream each watch their share of it."""
    yield Window(profiles.load(ensure_models() / "profile.json"), RIDES)


@bus.lifespan
def alarm() -> Iterator[Alarm]:
    yield find_alarm(os.environ.get(ALARM) or "examples.monitoring.alarms:say")


@bus.predictor("rides.started", to="rides.drift")
async def drift(rides: list[RideStarted], window: Window) -> list[Drifted | None]:
    crossings = drifted(window.add(watched(rides), len(rides)) or [])
    event = Drifted(rides[-1].ride_id, crossings) if crossings else None
    return [*[None] * (len(rides) - 1), event]


@bus.consumer("rides.drift")
def tell(event: Drifted, alarm: Alarm) -> None:
    ring(alarm, event.crossings)
