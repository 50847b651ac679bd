"""Predictions of a stream: rides are published, the bus runs, and its predictions are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from eventml.bus import create_topics
from tests.parity.parity_app import bus
from tests.parity.predictions import PredictionReader, Predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.runtime.worker import Worker


def predict_on_a_stream(
    url: str, rides: Sequence[dict[str, Any]], *, max_batch: int | None = None
) -> Predictions:
    """Return the predictions of the bus on a backend.

    Args:
        url: URL of the backend.
        rides: The rides, which four producers publish.
        max_batch: Maximum number of rides in a call; None for that of the handlers.
    """
    options = {"consumer": {name: {"max_batch": max_batch} for name in bus.handlers}} if max_batch else {}
    bus.configure(bus.read_settings({"backend": url, **options}))
    return anyio.run(_predict, rides)


async def _predict(rides: Sequence[dict[str, Any]]) -> Predictions:
    predicted = PredictionReader()
    async with bus:
        await create_topics(bus)
        topics = [topic for handler in bus.handlers.values() for topic in handler.outputs]
        async with (
            bus.backend.subscribe(topics, group=None, start="latest") as reader,
            bus.worker() as worker,
            anyio.create_task_group() as tasks,
            anyio.create_task_group() as running,
        ):

            async def read_all() -> None:
                while True:
                    for delivery in await reader.receive(1024):
                        predicted.add(delivery.record)

            tasks.start_soon(read_all)
            running.start_soon(worker.run)
            await worker.ready.wait()
            async with anyio.create_task_group() as producers:
                for number in range(4):
                    producers.start_soon(_publish, rides[number::4])
            await _until_all_are_read(worker, predicted, len(rides))
            tasks.cancel_scope.cancel()
            worker.stop()
    assert not predicted.duplicates
    return predicted.predictions


async def _publish(rides: Sequence[dict[str, Any]]) -> None:
    await bus.publish_many("parity.rides", rides, key=lambda ride: str(ride["pickup_location_id"]))


async def _until_all_are_read(worker: Worker, predicted: PredictionReader, rides: int) -> None:
    """Wait until each handler has completed all rides, and all of its predictions have been read."""

    def missing() -> dict[str, str]:
        return {
            name: f"{stats.completed} of {rides} rides completed, {stats.in_flight} in flight, "
            f"{stats.dead_letters} dead letters, {len(predicted.predictions[name])} predictions read"
            for name, stats in worker.stats.items()
            if stats.completed < rides
            or len(predicted.predictions[name]) < min(stats.completed, rides) - stats.dead_letters
        }

    with anyio.move_on_after(100) as waiting:
        while missing():
            await anyio.sleep(0.02)
    assert not waiting.cancelled_caught, missing()
