"""The runtime over the in-memory backend, against bare loops that decode and encode the same events.

    python -m benchmarks.memory [--events N] [--rounds N]

Each case: a producer encodes ride events of 250 bytes and publishes them; a consumer decodes them,
calls a no-op predictor, encodes its outputs and publishes them. The bare loops keep nothing: no
groups, no acks, no keys, no ids, no redelivery; and they call the predictor on the event loop, as
eventml calls a coroutine. A plain function it calls in a thread, so that the loop stays free.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

import eventml
from benchmarks.faststream_memory import with_faststream
from benchmarks.measuring import DurationPredicted, RideStarted, interleave, machine, report, rides
from eventml.backends.memory import Hub

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 1024
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(RideStarted).decode


def predict(batch: list[RideStarted]) -> list[DurationPredicted]:
    return [DurationPredicted(ride.ride_id, ride.trip_distance) for ride in batch]


async def predict_on_the_loop(batch: list[RideStarted]) -> list[DurationPredicted]:
    return predict(batch)


def with_eventml(events: list[RideStarted], handler: Callable[..., Any], **choices: Any) -> float:
    bus = eventml.Bus("benchmark")
    bus.predictor("rides.started", to="rides.duration", name="duration", max_batch=BATCH, **choices)(handler)

    async def main() -> float:
        async with (
            bus.open(backend=Hub()),
            bus.worker() as worker,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(worker.run)
            await worker.ready.wait()
            start = time.perf_counter()
            await bus.publish_many("rides.started", events)
            while worker.stats["duration"].completed < len(events):
                await anyio.sleep(0.005)
            seconds = time.perf_counter() - start
            worker.stop()
        return len(events) / seconds

    return asyncio.run(main())


def with_queue(events: list[RideStarted], *, batched: bool) -> float:
    async def main() -> float:
        queue: asyncio.Queue[bytes] = asyncio.Queue(4 * BATCH)
        answers: asyncio.Queue[bytes] = asyncio.Queue()

        async def produce() -> None:
            for event in events:
                await queue.put(encode(event))

        async def consume() -> None:
            left = len(events)
            while left:
                batch = [decode(await queue.get())]
                while batched and len(batch) < BATCH and not queue.empty():
                    batch.append(decode(queue.get_nowait()))
                for answer in predict(batch):
                    answers.put_nowait(encode(answer))
                left -= len(batch)

        start = time.perf_counter()
        await asyncio.gather(produce(), consume())
        return len(events) / (time.perf_counter() - start)

    return asyncio.run(main())


def with_anyio_stream(events: list[RideStarted]) -> float:
    async def main() -> float:
        send, receive = anyio.create_memory_object_stream[bytes](4 * BATCH)
        send_answer, receive_answer = anyio.create_memory_object_stream[bytes](len(events))

        async def produce() -> None:
            async with send:
                for event in events:
                    await send.send(encode(event))

        start = time.perf_counter()
        async with anyio.create_task_group() as tasks, receive_answer, send_answer:
            tasks.start_soon(produce)
            async with receive:
                async for value in receive:
                    [answer] = predict([decode(value)])
                    await send_answer.send(encode(answer))
        return len(events) / (time.perf_counter() - start)

    return asyncio.run(main())


def cases(events: list[RideStarted]) -> dict[str, Callable[[], float]]:
    few = events[: max(len(events) // 200, 500)]
    return {
        "eventml, on the loop": lambda: with_eventml(events, predict_on_the_loop),
        "eventml, in a thread": lambda: with_eventml(events, predict),
        "asyncio.Queue, drained in batches": lambda: with_queue(events, batched=True),
        "asyncio.Queue, one at a time": lambda: with_queue(events, batched=False),
        "anyio memory stream": lambda: with_anyio_stream(events),
        "FastStream TestBroker": lambda: with_faststream(few),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    print(machine("anyio", "msgspec", "faststream"))
    figures = interleave(cases(rides(chosen.events)), chosen.rounds)
    report(f"{chosen.events:,} rides through memory, no-op predictor", figures, "eventml, on the loop")


if __name__ == "__main__":
    main()
