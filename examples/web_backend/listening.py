"""Reads rides and predictions from the bus into the board, and runs the predictors in memory."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec

from eventml import Bus
from eventml.errors import UnavailableError
from examples.rides.events import DurationPredicted, RideStarted, TipPredicted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.backends.base import Subscription
    from eventml.records import Record
    from examples.web_backend.board import Board

log = logging.getLogger(__name__)

bus = Bus("web-backend")
bus.topic("rides.started", event_type=RideStarted, id_field="ride_id")

TOPICS: Final[dict[str, Any]] = {
    "rides.started": RideStarted,
    "rides.duration": DurationPredicted,
    "rides.tip": TipPredicted,
}


@asynccontextmanager
async def listening(board: Board) -> AsyncIterator[None]:
    """Add the events of the three topics to the board, from now on.

    Read without a consumer group: a group's members share the events, and every process of a web
    server wants all of them.
    """
    async with (
        bus.open(),
        bus.backend.subscribe(list(TOPICS), group=None, start="latest") as reader,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_note_all, reader, board)
        yield
        tasks.cancel_scope.cancel()


async def _note_all(reader: Subscription, board: Board) -> None:
    while True:
        try:
            deliveries = await reader.receive(256)
        except UnavailableError as exc:
            log.warning("no predictions for now: %s", exc)
            await anyio.sleep(1)
            continue
        for delivery in deliveries:
            note(delivery.record, board)


def note(record: Record, board: Board) -> None:
    """Add one record's event to the board; a record that cannot be decoded is ignored."""
    try:
        event = msgspec.json.decode(record.value, type=TOPICS[record.topic])
    except msgspec.DecodeError as exc:
        log.warning("passed over a record of %s: %s", record.topic, exc)
    else:
        board.note(msgspec.to_builtins(event))


@asynccontextmanager
async def predicting(backend: str) -> AsyncIterator[None]:
    """Run the predictors of `examples.rides` in this process, which the in-memory backend requires."""
    from examples.rides.app import bus as rides  # noqa: PLC0415 - a web server has no need of scikit-learn

    rides.configure(rides.read_settings({"backend": backend}))
    async with rides.open(), rides.worker() as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await worker.ready.wait()
        yield
        worker.stop()
