"""The consumers of a Kafka topic that `kafka.py` compares.

All do the same to an event: fetch, decode, predict, produce the result, commit. All read the same
topic, in eventml's wire format, each time in a group of its own from the beginning. The clock runs
from the first prediction until the last result is acknowledged: joining a group is not measured.
"""

from __future__ import annotations

import asyncio
import logging
import time
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import anyio
import msgspec
import pydantic
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Consumer, Producer
from faststream.kafka import KafkaBroker

import eventml
from benchmarks.measuring import DurationPredicted, RideStarted
from eventml.backends import kafka as backend
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Predict = Callable[[Sequence[RideStarted]], list[DurationPredicted]]
    Idiom = Callable[["KafkaBroker", Predict, "Countdown", str], None]

SOURCE, TARGET = "rides.started", "rides.duration"
BATCH = 1024
SIZE = 1_048_576  # bytes in a batch, for all
HEADERS = {
    "ce_specversion": "1.0",
    "ce_type": SOURCE,
    "ce_source": "benchmark",
    "content-type": "application/json",
}

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(RideStarted).decode
_groups = count(1)


class Clock:
    """Measures the time from the first prediction."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.start = 0.0

    def predict(self, batch: Sequence[RideStarted]) -> list[DurationPredicted]:
        self.start = self.start or time.perf_counter()
        return self._predict(batch)

    def rate(self, events: int) -> float:
        return events / (time.perf_counter() - self.start)


def new_group() -> str:
    return f"benchmark-{time.time_ns():x}-{next(_groups)}"


def fill(brokers: str, events: Sequence[RideStarted]) -> None:
    """Publish the events; the key is the pick-up location."""

    async def main() -> None:
        async with backend.open(f"kafka://{brokers}", backend.Settings()) as broker:
            records = [
                Record(SOURCE, encode(e), b"%d" % e.pickup_location_id, e.ride_id, HEADERS) for e in events
            ]
            for start in range(0, len(records), 5_000):
                await broker.publish(records[start : start + 5_000])

    asyncio.run(main())


def with_eventml(brokers: str, events: int, predict: Predict) -> float:
    clock = Clock(predict)
    bus = eventml.Bus("benchmark")
    bus.predictor(SOURCE, to=TARGET, group=new_group(), name="duration", max_batch=BATCH)(
        typed(clock.predict)
    )

    async def main() -> float:
        async with (
            backend.open(f"kafka://{brokers}", backend.Settings()) as broker,
            bus.open(broker),
            bus.worker() as worker,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(worker.run)
            while worker.stats["duration"].completed < events:
                await anyio.sleep(0.005)
            rate = clock.rate(events)
            worker.stop()
        return rate

    return asyncio.run(main())


def with_aiokafka(brokers: str, events: int, predict: Predict, *, headers: bool = False) -> float:
    """A hand-written loop: getmany, and send_batch for each partition; with or without eventml's headers."""
    common = [(name, value.encode()) for name, value in HEADERS.items()] if headers else []
    clock = Clock(predict)

    async def main() -> float:
        consumer = AIOKafkaConsumer(
            SOURCE,
            bootstrap_servers=brokers,
            group_id=new_group(),
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        producer = AIOKafkaProducer(
            bootstrap_servers=brokers, acks="all", enable_idempotence=True, max_batch_size=SIZE
        )
        async with consumer, producer:
            done = 0
            while done < events:
                fetched = await consumer.getmany(timeout_ms=1_000, max_records=BATCH)
                sent = []
                for partition, records in fetched.items():
                    results = clock.predict([decode(record.value) for record in records])
                    batch = producer.create_batch()
                    for record, result in zip(records, results, strict=True):
                        own = [*common, ("ce_id", f"{result.ride_id}/duration".encode())] if headers else []
                        batch.append(timestamp=None, key=record.key, value=encode(result), headers=own)
                    sent.append(await producer.send_batch(batch, TARGET, partition=partition.partition))
                    done += len(records)
                await asyncio.gather(*sent)
                await consumer.commit()
            return clock.rate(done)

    return asyncio.run(main())


def with_confluent(brokers: str, events: int, predict: Predict, *, awaited: bool) -> float:
    """librdkafka: consume a batch, produce one; `awaited` waits for each batch and each commit."""
    clock = Clock(predict)
    common = {"bootstrap.servers": brokers}
    consumer = Consumer(
        {
            **common,
            "group.id": new_group(),
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "queued.max.messages.kbytes": 65_536,
        }
    )
    producer = Producer(
        {
            **common,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 0 if awaited else 5,
            "batch.size": SIZE,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    consumer.subscribe([SOURCE])
    done = 0
    try:
        while done < events:
            records = [r for r in consumer.consume(BATCH, 0.02) if r.error() is None]
            if not records:
                continue
            results = clock.predict([decode(record.value()) for record in records])
            for record, result in zip(records, results, strict=True):
                producer.produce(TARGET, encode(result), record.key(), record.partition())
            done += len(records)
            if awaited:
                producer.flush()
                consumer.commit(asynchronous=False)
            else:
                producer.poll(0)
                consumer.commit(asynchronous=True)
        producer.flush()
        return clock.rate(done)
    finally:
        consumer.close()


class Ride(pydantic.BaseModel):
    """`RideStarted` as a pydantic model, as FastStream uses it."""

    ride_id: str
    pickup_location_id: int
    dropoff_location_id: int
    trip_distance: float
    pickup_datetime: str
    passenger_count: int
    vendor: str
    note: str


class Duration(pydantic.BaseModel):
    ride_id: str
    minutes: float


class Countdown:
    """Sets an event when this many records are finished."""

    def __init__(self, left: int) -> None:
        self._left = left
        self.done = 0
        self.over = asyncio.Event()

    def count(self, done: int) -> None:
        self.done += done
        if self.done >= self._left:
            self.over.set()


def one_by_one(broker: KafkaBroker, predict: Predict, countdown: Countdown, group: str) -> None:
    """FastStream with typed messages, one at a time; the handler returns the result."""

    @broker.subscriber(SOURCE, group_id=group, auto_offset_reset="earliest")  # type: ignore[untyped-decorator]  # FastStream's
    @broker.publisher(TARGET)  # type: ignore[untyped-decorator]  # the same
    async def duration(ride: Ride) -> Duration:
        [result] = predict([cast("RideStarted", ride)])
        countdown.count(1)
        return Duration(ride_id=result.ride_id, minutes=result.minutes)


def in_batches(broker: KafkaBroker, predict: Predict, countdown: Countdown, group: str) -> None:
    """FastStream with batches; the results of a batch are published together."""

    @broker.subscriber(  # type: ignore[untyped-decorator]  # FastStream's
        SOURCE, group_id=group, auto_offset_reset="earliest", batch=True, max_records=BATCH
    )
    async def duration(batch: list[Ride]) -> None:
        results = predict(cast("list[RideStarted]", batch))
        await broker.publish_batch(
            *(Duration(ride_id=result.ride_id, minutes=result.minutes) for result in results), topic=TARGET
        )
        countdown.count(len(batch))


def with_faststream(brokers: str, events: int, predict: Predict, idiom: Idiom) -> float:
    clock = Clock(predict)

    async def main() -> float:
        broker = KafkaBroker(brokers, logger=None, max_batch_size=SIZE)
        countdown = Countdown(events)
        idiom(broker, clock.predict, countdown, new_group())
        await broker.start()
        await countdown.over.wait()
        rate = clock.rate(countdown.done)
        await broker.stop()
        return rate

    return asyncio.run(main())


def typed(predict: Predict) -> Any:
    """The function with annotations, so that it can be registered as a handler."""

    def duration(batch: list[RideStarted]) -> list[DurationPredicted]:
        return predict(batch)

    return duration


logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
