"""An app with events that kill its process: run by `test_crash_loops.py`, again and again.

eventml run tests.failures.poisoned:bus
"""

from __future__ import annotations

import ctypes
import os

from eventml import Bus
from tests.failures.scenario import Duration, Ride

MAX_DELIVERIES = int(os.environ["POISON_MAX_DELIVERIES"])
name = os.environ["POISONED_BUS"]
poison = {int(number) for number in os.environ["POISON_EVENTS"].split(",")}
bus = Bus(name)


@bus.predictor(f"{name}.started", to=f"{name}.duration", max_batch=8, max_deliveries=MAX_DELIVERIES)
def duration(rides: list[Ride]) -> list[Duration]:
    if poison & {ride.ride_id for ride in rides}:
        ctypes.string_at(0)  # a segmentation fault
    return [Duration(ride.ride_id, ride.miles) for ride in rides]
