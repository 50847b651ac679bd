"""Another consumer of the rides, which detects drift from the training sample.

    eventml run examples.rides.watch:bus

It compares every 2,000 rides with the training sample, and publishes an event on `rides.drift` if any feature
has drifted. A consumer of that topic calls an alarm: the function that `$RIDES_ALARM` names as
MODULE:FUNCTION, or one that prints to standard error.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from eventml import Bus
from examples.monitoring import profiles
from examples.monitoring.alarms import Alarm, Crossing, call_alarm, drifted, find_alarm
from examples.monitoring.window import Window
from examples.rides.events import RideStarted
from examples.rides.features import monitored_columns
from examples.rides.train import ensure_models

if TYPE_CHECKING:
    from collections.abc import Iterator

RIDES: Final = 2_000
"""Number of rides to compare at a time."""

ALARM: Final = "RIDES_ALARM"

bus = Bus("rides-watch")
bus.topic("rides.started", event_type=RideStarted, id_field="ride_id")


class Drifted(msgspec.Struct, frozen=True):
    """The last rides have drifted from the training sample.

    Attributes:
        until: Id of the last of these rides.
        crossings: Features that crossed their limit.
    """

    until: str
    crossings: list[Crossing]


@bus.lifespan
def window() -> Iterator[Window]:
    """The window of one worker: each worker watches the rides that it receives."""
    yield Window(profiles.load(ensure_models() / "profile.json"), RIDES)


@bus.lifespan
def alarm() -> Iterator[Alarm]:
    """The alarm function of `$RIDES_ALARM`."""
    yield find_alarm(os.environ.get(ALARM) or "examples.monitoring.alarms:print_alarm")


@bus.predictor("rides.started", to="rides.drift")
async def drift(rides: list[RideStarted], window: Window) -> list[Drifted | None]:
    """Publish an event if the rides of a window have drifted."""
    crossings = drifted(window.add(monitored_columns(rides), len(rides)) or [])
    event = Drifted(rides[-1].ride_id, crossings) if crossings else None
    return [*[None] * (len(rides) - 1), event]


@bus.consumer("rides.drift")
def raise_alarm(event: Drifted, alarm: Alarm) -> None:
    """Call the alarm function with the features that have drifted."""
    call_alarm(alarm, event.crossings)
