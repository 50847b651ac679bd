"""The way of a stream: rides are published, the bus runs, and what it publishes is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from eventml.bus import create_topics
from tests.parity.answers import Answered, Answers
from tests.parity.parity_app import bus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.runtime.worker import Worker


def streamed(url: str, rides: Sequence[dict[str, Any]], *, max_batch: int | None = None) -> Answers:
    """What the bus answers on a backend.

    Args:
        url: The backend's.
        rides: What is published, by four at once.
        max_batch: The most rides in one call; as the handlers have it if None.
    """
    options = {"consumer": {name: {"max_batch": max_batch} for name in bus.handlers}} if max_batch else {}
    bus.configure(bus.read_settings({"backend": url, **options}))
    return anyio.run(_streamed, rides)


async def _streamed(rides: Sequence[dict[str, Any]]) -> Answers:
    answered = Answered()
    async with bus:
        await create_topics(bus)
        topics = [handler.to for handler in bus.handlers.values() if handler.to]
        async with (
            bus.backend.subscribe(topics, group=None, start="latest") as reader,
            bus.worker() as worker,
            anyio.create_task_group() as tasks,
            anyio.create_task_group() as running,
        ):

            async def note_all() -> None:
                while True:
                    for delivery in await reader.receive(1024):
                        answered.note(delivery.record)

            tasks.start_soon(note_all)
            running.start_soon(worker.run)
            await worker.ready.wait()
            async with anyio.create_task_group() as producers:
                for number in range(4):
                    producers.start_soon(_publish, rides[number::4])
            await worker.idle(0.3)
            await _all_noted(worker, answered)
            tasks.cancel_scope.cancel()
            worker.stop()
    assert not answered.twice
    return answered.answers


async def _publish(rides: Sequence[dict[str, Any]]) -> None:
    await bus.publish_many("rides.started", rides, key=lambda ride: str(ride["pickup_location_id"]))


async def _all_noted(worker: Worker, answered: Answered) -> None:
    """Wait until as many have been read as were written."""

    def wanting() -> bool:
        return any(
            len(answered.answers[name]) < stats.completed - stats.dead_letters
            for name, stats in worker.stats.items()
        )

    with anyio.fail_after(60):
        while wanting():
            await anyio.sleep(0.02)
