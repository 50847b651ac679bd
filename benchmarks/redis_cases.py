"""The consumers of a Redis stream that `redis.py` compares. Each handles all events of the stream.

All do the same to an event: receive, decode, predict, publish the result, acknowledge. The bare loop
does it with the script that eventml's backend uses and with nothing else: it shows the limit of
the server and the parser. It has no leases, no claims and no recovery.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import anyio
import hiredis
import msgspec
import pydantic
from faststream.redis import BinaryMessageFormatV1, Pipeline, RedisBroker, StreamSub
from redis.asyncio import Redis

import eventml
from benchmarks.measuring import DurationPredicted, RideStarted, no_op
from eventml.backends import redis as backend
from eventml.backends.redis.completion import COMPLETE
from eventml.backends.redis.wire import encode_headers
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Predict = Callable[[Sequence[RideStarted]], list[DurationPredicted]]
    Idiom = Callable[["RedisBroker", Predict, "Countdown"], None]

SOURCE, TARGET, GROUP = "rides.started", "rides.duration", "benchmark"
BATCH = 1024
LOOP_BATCH = 256  # what a hand-written loop and FastStream take at once
HEADERS = {
    "ce_specversion": "1.0",
    "ce_type": TARGET,
    "ce_source": "benchmark",
    "content-type": "application/json",
    "ce_predictor": "duration",
}

_format = BinaryMessageFormatV1.encode
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(RideStarted).decode


def fill(url: str, events: Sequence[RideStarted]) -> None:
    """Empty the server, write the events in eventml's wire format, and create a group that has read none."""

    async def main() -> None:
        async with Redis.from_url(url) as redis, backend.open(url, backend.Settings()) as broker:
            await redis.flushall()
            await redis.xgroup_create(SOURCE, GROUP, "0", mkstream=True)
            headers = {**HEADERS, "ce_type": SOURCE}
            await broker.publish([Record(SOURCE, encode(e), None, e.ride_id, headers) for e in events])

    asyncio.run(main())


def drained(url: str, count: int) -> None:
    """Check that every event has its result and no event is pending."""

    async def main() -> None:
        async with Redis.from_url(url) as redis:
            results = await redis.xlen(TARGET)
            pending = (await redis.xpending(SOURCE, GROUP))["pending"]
            assert (results, pending) == (count, 0), (
                f"{results} results for {count} events, {pending} pending"
            )

    asyncio.run(main())


def with_eventml(url: str, events: Sequence[RideStarted], predict: Predict) -> float:
    return with_handler(url, events, typed(predict), max_batch=BATCH)


def with_handler(url: str, events: Sequence[RideStarted], handler: Any, **options: Any) -> float:
    """Events a second through a handler of any kind, with its default options but these."""
    fill(url, events)
    bus = eventml.Bus("benchmark")
    bus.predictor(SOURCE, to=TARGET, group=GROUP, name="duration", **options)(handler)

    async def main() -> float:
        async with (
            backend.open(url, backend.Settings()) as broker,
            bus.open(broker),
            bus.worker() as worker,
            anyio.create_task_group() as tasks,
        ):
            start = time.perf_counter()
            tasks.start_soon(worker.run)
            while worker.stats["duration"].completed < len(events):
                await anyio.sleep(0.005)
            seconds = time.perf_counter() - start
            worker.stop()
        return len(events) / seconds

    rate = asyncio.run(main())
    drained(url, len(events))
    return rate


def with_bare_loop(url: str, events: Sequence[RideStarted], predict: Predict) -> float:
    """Blocking sockets, hiredis, one script call a batch, and the next read on its way meanwhile."""
    fill(url, events)
    reads, writes = Resp(url), Resp(url)
    writes.send("SCRIPT", "LOAD", COMPLETE.source)
    digest = writes.receive()
    read = ("XREADGROUP", "GROUP", GROUP, "bare", "COUNT", BATCH, "BLOCK", 1000, "STREAMS", SOURCE, ">")
    meta = encode_headers(HEADERS)
    done, completing = 0, False
    start = time.perf_counter()
    reads.send(*read)
    while done < len(events):
        [[_, entries]] = reads.receive()
        done += len(entries)
        if done < len(events):
            reads.send(*read)
        results = predict([decode(fields[1]) for _, fields in entries])
        # The arguments that scripts/complete.lua describes: one run of completions of one shape.
        arguments = ["EVALSHA", digest, 2, SOURCE, TARGET, GROUP, "bare"]
        arguments += (0, 1, meta, len(entries), 0, 1, 2, 1, 1)
        for (entry, fields), result in zip(entries, results, strict=True):
            arguments += (entry, encode(result), fields[3] + b"/duration")
        if completing:
            assert writes.receive() == [0]
        writes.send(*arguments)
        completing = True
    assert writes.receive() == [0]
    seconds = time.perf_counter() - start
    reads.close()
    writes.close()
    drained(url, len(events))
    return len(events) / seconds


class Resp:
    """A blocking connection: a socket and the parser."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "localhost", parts.port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser = hiredis.Reader(notEnoughData=...)
        self._parser.setmaxbuf(1 << 21)
        self._buffer = bytearray(1 << 18)

    def send(self, *command: str | bytes | int) -> None:
        self._socket.sendall(hiredis.pack_command(command))

    def receive(self) -> Any:
        while (reply := self._parser.gets()) is ...:
            self._parser.feed(self._buffer, 0, self._socket.recv_into(self._buffer))
        return reply

    def close(self) -> None:
        self._socket.close()


def with_redis_py(url: str, events: Sequence[RideStarted], predict: Predict) -> float:
    """A hand-written loop: read 256 events, then write their results and their ack in one pipeline."""
    fill(url, events)
    meta = encode_headers(HEADERS)

    async def main() -> float:
        done = 0
        async with Redis.from_url(url) as redis:
            start = time.perf_counter()
            while done < len(events):
                found: Any = await redis.xreadgroup(
                    GROUP, "plain", {SOURCE: ">"}, count=LOOP_BATCH, block=1000
                )
                [[_, entries]] = found
                results = predict([decode(fields[b"data"]) for _, fields in entries])
                async with redis.pipeline(transaction=False) as pipe:
                    for (_, fields), result in zip(entries, results, strict=True):
                        output: Any = {
                            "data": encode(result),
                            "id": fields[b"id"] + b"/duration",
                            "meta": meta,
                        }
                        pipe.xadd(TARGET, output)
                    pipe.xack(SOURCE, GROUP, *(entry for entry, _ in entries))
                    await pipe.execute()
                done += len(entries)
            return len(events) / (time.perf_counter() - start)

    rate = asyncio.run(main())
    drained(url, len(events))
    return rate


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

    def __init__(self, left: float) -> None:
        self._left = left
        self.over = asyncio.Event()

    def count(self, done: int) -> None:
        self._left -= done
        if self._left <= 0:
            self.over.set()


def one_by_one(broker: RedisBroker, predict: Predict, countdown: Countdown) -> None:
    """FastStream with typed messages, one at a time; the handler returns the result."""

    @broker.subscriber(stream=StreamSub(SOURCE, group=GROUP, consumer="faststream", last_id="0"))  # type: ignore[untyped-decorator]  # FastStream's
    @broker.publisher(stream=TARGET)  # type: ignore[untyped-decorator]  # the same
    async def duration(ride: Ride) -> Duration:
        [result] = predict([cast("RideStarted", ride)])
        countdown.count(1)
        return Duration(ride_id=result.ride_id, minutes=result.minutes)


def in_batches(broker: RedisBroker, predict: Predict, countdown: Countdown) -> None:
    """FastStream with batches; each result is published through a pipeline."""
    stream = StreamSub(
        SOURCE, group=GROUP, consumer="faststream", last_id="0", batch=True, max_records=LOOP_BATCH
    )

    @broker.subscriber(stream=stream)  # type: ignore[untyped-decorator]  # FastStream's
    async def duration(batch: list[Ride], pipe: Pipeline) -> None:
        for result in predict(cast("list[RideStarted]", batch)):
            answer = Duration(ride_id=result.ride_id, minutes=result.minutes)
            await broker.publish(answer, stream=TARGET, pipeline=pipe)
        await pipe.execute()
        countdown.count(len(batch))


def with_faststream(url: str, events: Sequence[RideStarted], predict: Predict, idiom: Idiom) -> float:
    async def main() -> float:
        broker = RedisBroker(url, logger=None)
        countdown = Countdown(len(events))
        idiom(broker, predict, countdown)
        async with Redis.from_url(url) as redis:
            await redis.flushall()
            await broker.connect()
            async with redis.pipeline(transaction=False) as pipe:
                for event in events:
                    await broker.publish(msgspec.to_builtins(event), stream=SOURCE, pipeline=pipe)
                await pipe.execute()
        start = time.perf_counter()
        await broker.start()
        await countdown.over.wait()
        seconds = time.perf_counter() - start
        await anyio.sleep(0.2)  # its last results and acks are still on their way
        await broker.stop()
        return len(events) / seconds

    rate = asyncio.run(main())
    drained(url, len(events))
    return rate


def serve(name: str, url: str) -> None:
    """Run a worker until the process is ended, for measuring latencies from outside."""
    asyncio.run(_eventml(url) if name == "eventml" else _faststream(name, url))


async def _eventml(url: str) -> None:
    bus = eventml.Bus("benchmark")

    async def duration(batch: list[RideStarted]) -> list[DurationPredicted]:  # as FastStream's is
        return no_op(batch)

    bus.predictor(SOURCE, to=TARGET, group=GROUP, max_batch=BATCH)(duration)
    async with backend.open(url, backend.Settings()) as broker, bus.open(broker), bus.worker() as worker:
        await worker.run()


async def _faststream(name: str, url: str) -> None:
    broker = RedisBroker(url, logger=None)
    countdown = Countdown(float("inf"))
    (one_by_one if "one by one" in name else in_batches)(broker, no_op, countdown)
    await broker.start()
    await countdown.over.wait()


def empty(url: str) -> None:
    connection = Resp(url)
    connection.send("FLUSHALL")
    connection.receive()
    connection.close()


def server(url: str) -> str:
    """Describe the server: its version, and whether it writes an append-only file."""
    connection = Resp(url)
    connection.send("INFO")
    info = connection.receive()
    connection.close()
    version = re.search(rb"redis_version:(\S+)", info)
    durable = b"aof_enabled:1" in info
    return f"Redis {version[1].decode() if version else '?'}, append-only file {'on' if durable else 'off'}"


def until_it_reads(url: str, workers: int = 1) -> None:
    """Wait until so many workers wait in the server for the first event."""
    connection = Resp(url)
    waiting = 0
    while waiting < workers:
        time.sleep(0.05)
        connection.send("INFO", "clients")
        found = re.search(rb"blocked_clients:(\d+)", connection.receive())
        waiting = int(found[1]) if found else 0
    connection.close()


def entries(events: Sequence[RideStarted], *, faststream: bool) -> list[tuple[str | bytes, ...]]:
    """Each event as the fields of an entry, in eventml's format or in FastStream's."""
    if not faststream:
        meta = encode_headers({**HEADERS, "ce_type": SOURCE})
        return [("data", encode(ride), "id", ride.ride_id, "meta", meta) for ride in events]

    async def main() -> list[tuple[str | bytes, ...]]:
        headers = {"content-type": "application/json"}
        return [
            (
                "__data__",
                await _format(message=encode(r), reply_to=None, headers=headers, correlation_id=r.ride_id),
            )
            for r in events
        ]

    return asyncio.run(main())


def typed(predict: Predict) -> Any:
    """The function with annotations, so that it can be registered as a handler."""

    def duration(batch: list[RideStarted]) -> list[DurationPredicted]:
        return predict(batch)

    return duration
