"""An app whose process some events kill: run by `test_crash_loops.py`, again and again.

eventml run tests.failures.poisoned:bus
"""

from __future__ import annotations

import ctypes
import os

from eventml import Bus
from tests.failures.scenario import Duration, Ride

name = os.environ["POISONED_BUS"]
deadly = {int(number) for number in os.environ["POISONED_BY"].split(",")}
bus = Bus(name)


@bus.predictor(f"{name}.started", to=f"{name}.duration", max_batch=8)
def duration(rides: list[Ride]) -> list[Duration]:
    if deadly & {ride.ride_id for ride in rides}:
        ctypes.string_at(0)  # a segmentation fault
    return [Duration(ride.ride_id, ride.miles) for ride in rides]
