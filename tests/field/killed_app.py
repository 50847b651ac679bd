"""An app whose worker waits to be killed in the call with one event: run by `test_killed_workers.py`.

eventml run tests.field.killed_app:bus
"""

from __future__ import annotations

import os
import time

from eventml import Bus
from tests.failures.scenario import Duration, Ride

name = os.environ["KILLED_BUS"]
last = int(os.environ["KILLED_IN"])
bus = Bus(name)


@bus.predictor(f"{name}.started", to=f"{name}.duration", max_batch=4, max_deliveries=3)
def duration(rides: list[Ride]) -> list[Duration]:
    if last in {ride.ride_id for ride in rides}:
        os.write(1, b"in the call\n")
        time.sleep(600)
    return [Duration(ride.ride_id, ride.miles) for ride in rides]
