"""Handlers of pydantic events, and coroutines that wait, over Redis, against FastStream and a loop.

    python -m benchmarks.handlers [--events N] [--calls N] [--rounds N]

First rides of 250 bytes as pydantic models, no-op: in eventml as batches, with msgspec's structs for
comparison, and in FastStream, one by one and in batches. Then a coroutine of single events that waits for
5 or 50 ms, as for an API, with 64 calls at once: in eventml by default, in FastStream with
`max_workers=64`, and in a loop of redis-py that starts a task for each event behind a semaphore.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

from backends.redis.server import RedisServer
from benchmarks import redis_cases as ways
from benchmarks.measuring import interleave, machine, no_op, report, rides
from eventml.backends.redis.wire import encode_headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measuring import RideStarted

CALLS = 64
EVENTML = "eventml"


async def wait_and_predict(ride: ways.Ride, *, wait: float) -> ways.Duration:
    await asyncio.sleep(wait)
    return ways.Duration(ride_id=ride.ride_id, minutes=ride.trip_distance)


def in_batches(batch: list[ways.Ride]) -> list[ways.Duration]:
    return [ways.Duration(ride_id=ride.ride_id, minutes=ride.trip_distance) for ride in batch]


def with_loop(url: str, events: Sequence[RideStarted], wait: float) -> float:
    """A task for each event behind a semaphore; its result and its ack go out in one pipeline."""
    ways.fill(url, events)
    meta = encode_headers(ways.HEADERS)

    async def main() -> float:
        places = asyncio.Semaphore(CALLS)
        done = 0

        async def handle(entry: bytes, fields: dict[bytes, bytes]) -> None:
            nonlocal done
            try:
                ride = ways.Ride.model_validate_json(fields[b"data"])
                result = await wait_and_predict(ride, wait=wait)
                output: Any = {
                    "data": result.model_dump_json(),
                    "id": fields[b"id"] + b"/duration",
                    "meta": meta,
                }
                async with redis.pipeline(transaction=False) as pipe:
                    pipe.xadd(ways.TARGET, output)
                    pipe.xack(ways.SOURCE, ways.GROUP, entry)
                    await pipe.execute()
                done += 1
            finally:
                places.release()

        async with Redis.from_url(url) as redis, asyncio.TaskGroup() as tasks:
            start = time.perf_counter()
            taken = 0
            while taken < len(events):
                found: Any = await redis.xreadgroup(
                    ways.GROUP, "loop", {ways.SOURCE: ">"}, count=CALLS, block=1000
                )
                for entry, fields in found[0][1]:
                    await places.acquire()
                    tasks.create_task(handle(entry, fields))
                    taken += 1
            while done < len(events):
                await asyncio.sleep(0.002)
            return len(events) / (time.perf_counter() - start)

    rate = asyncio.run(main())
    ways.drained(url, len(events))
    return rate


def workers(broker: RedisBroker, _: ways.Predict, countdown: ways.Countdown, *, wait: float) -> None:
    """FastStream's coroutine of one message, `max_workers` of them at once."""
    stream = StreamSub(ways.SOURCE, group=ways.GROUP, consumer="faststream", last_id="0")

    @broker.subscriber(stream=stream, max_workers=CALLS)  # type: ignore[untyped-decorator]  # FastStream's
    @broker.publisher(stream=ways.TARGET)  # type: ignore[untyped-decorator]  # the same
    async def duration(ride: ways.Ride) -> ways.Duration:
        result = await wait_and_predict(ride, wait=wait)
        countdown.count(1)
        return result


def compare_pydantic(url: str, events: Sequence[RideStarted], rounds: int) -> None:
    few, some = events[: len(events) // 20], events[: len(events) // 4]
    figures = interleave(
        {
            EVENTML: lambda: ways.with_handler(url, events, in_batches),
            "eventml, msgspec's structs": lambda: ways.with_eventml(url, events, no_op),
            "FastStream, one by one": lambda: ways.with_faststream(url, few, no_op, ways.one_by_one),
            "FastStream, batches and a pipeline": lambda: ways.with_faststream(
                url, some, no_op, ways.in_batches
            ),
        },
        rounds,
    )
    report(f"{len(events):,} rides as pydantic models, no-op", figures, EVENTML)


def compare_waiting(url: str, events: Sequence[RideStarted], rounds: int, wait: float) -> None:
    async def duration(ride: ways.Ride) -> ways.Duration:
        return await wait_and_predict(ride, wait=wait)

    figures = interleave(
        {
            EVENTML: lambda: ways.with_handler(url, events, duration),
            f"FastStream, max_workers={CALLS}": lambda: ways.with_faststream(
                url, events, no_op, partial(workers, wait=wait)
            ),
            f"asyncio loop, semaphore of {CALLS}": lambda: with_loop(url, events, wait),
        },
        rounds,
    )
    report(
        f"{len(events):,} calls of {1000 * wait:g} ms, {CALLS} at once: at most {CALLS / wait:,.0f}/s",
        figures,
        EVENTML,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=50_000, help="of pydantic models")
    parser.add_argument("--calls", type=int, default=4_000, help="that wait")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    with RedisServer(settings={"appendonly": "no", "save": ""}) as server:
        print(machine("redis", "hiredis", "faststream", "pydantic"), ways.server(server.url), sep="; ")
        compare_pydantic(server.url, rides(chosen.events), chosen.rounds)
        for wait in (0.005, 0.05):
            compare_waiting(server.url, rides(chosen.calls), chosen.rounds, wait)


if __name__ == "__main__":
    main()
