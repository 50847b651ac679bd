"""An app whose consumer records every call in a file: run by `test_duplicates_of_workers.py`.

eventml run tests.failures.recording:bus
"""

from __future__ import annotations

import os
import time

from eventml import Bus
from tests.failures.scenario import Duration, Ride

name = os.environ["RECORDING_BUS"]
record_file = os.open(os.environ["RECORDING_IN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
bus = Bus(name)


@bus.predictor(f"{name}.started", to=f"{name}.duration", max_batch=8, dedupe_window=10_000)
def duration(ride: Ride) -> Duration:
    time.sleep(0.001)
    return Duration(ride.ride_id, ride.miles)


@bus.consumer(f"{name}.started", max_batch=8, dedupe_window=10_000)
def record(ride: Ride) -> None:
    time.sleep(0.001)
    os.write(record_file, b"%d %d\n" % (ride.ride_id, os.getpid()))
