"""The same job with FastStream's in-memory broker: pydantic messages, one at a time."""

import asyncio
import time

import msgspec
from faststream.kafka import KafkaBroker, TestKafkaBroker
from pydantic import BaseModel

from benchmarks.measuring import RideStarted


class Ride(BaseModel):
    ride_id: str
    pickup_location_id: int
    dropoff_location_id: int
    trip_distance: float
    pickup_datetime: str
    passenger_count: int
    vendor: str
    note: str


class Duration(BaseModel):
    ride_id: str
    minutes: float


def with_faststream(events: list[RideStarted]) -> float:
    """Events a second through a subscriber that publishes what it returns."""
    broker = KafkaBroker(logger=None)
    messages = [Ride(**msgspec.structs.asdict(event)) for event in events]

    @broker.subscriber("rides.started")  # type: ignore[untyped-decorator]  # theirs has no types
    @broker.publisher("rides.duration")  # type: ignore[untyped-decorator]  # theirs has no types
    async def duration(ride: Ride) -> Duration:
        return Duration(ride_id=ride.ride_id, minutes=ride.trip_distance)

    async def main() -> float:
        async with TestKafkaBroker(broker):
            start = time.perf_counter()
            for message in messages:
                await broker.publish(message, "rides.started")
            return len(events) / (time.perf_counter() - start)

    return asyncio.run(main())
