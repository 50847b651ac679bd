"""Collect the predictions of a demo, and score them against the finished trips."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import numpy as np

from eventml.runtime import DLQ_PREFIX, dead_letter_topic
from examples.rides.targets import TARGETS, rmse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml import Bus
    from eventml.records import Record
    from examples.rides.targets import Target
    from examples.rides.trips import Trips

_FIELDS = {"rides.duration": "minutes", "rides.tip": "amount"}


class Scoreboard:
    """The predictions of the rides of this demo, by predictor and ride.

    Attributes:
        predictions: Predicted number by predictor and ride id.
        records: Number of records by predictor: higher than that of predictions if one was repeated.
        dead_letters: Reason of each dead letter, by predictor and ride id.
        ids: Record id of each prediction, by predictor and ride id.
        changed: When the last one was added, on the monotonic clock.
    """

    def __init__(self, trips: Trips) -> None:
        self._trips = trips
        self._rides = trips.ride_ids()
        self._ids = set(self._rides)
        names = [target.name for target in TARGETS]
        self.predictions: dict[str, dict[str, float]] = {name: {} for name in names}
        self.ids: dict[str, dict[str, str]] = {name: {} for name in names}
        self.records: Counter[str] = Counter()
        self.dead_letters: dict[str, dict[str, str]] = {name: {} for name in names}
        self.changed = time.monotonic()

    def add(self, record: Record) -> None:
        """Add a prediction or a dead letter; those of other runs on the same topics are ignored."""
        self.changed = time.monotonic()
        if record.topic in _FIELDS:
            name, field = record.topic.removeprefix("rides."), _FIELDS[record.topic]
            event: dict[str, Any] = msgspec.json.decode(record.value)
            if event["ride_id"] in self._ids:
                self.predictions[name][event["ride_id"]] = event[field]
                self.ids[name][event["ride_id"]] = record.id
                self.records[name] += 1
        elif record.id in self._ids:
            name = record.headers[f"{DLQ_PREFIX}group"].removeprefix("rides.")
            self.dead_letters[name][record.id] = record.headers[f"{DLQ_PREFIX}message"]

    def answered(self, name: str) -> int:
        """Return the number of rides that have a prediction or a dead letter of this predictor."""
        return len(self.predictions[name].keys() | self.dead_letters[name].keys())

    @property
    def missing(self) -> int:
        """The number of rides that have neither a prediction nor a dead letter of one of the predictors."""
        return len(self._rides) - min(self.answered(name) for name in self.predictions)

    def score(self, target: Target, mean: float) -> dict[str, float] | None:
        """Return the RMSE of a model and that of always predicting `mean`; None if no true value is known."""
        predicted = self.predictions[target.name]
        usable = target.usable(self._trips)
        known = np.array([ride in predicted for ride in self._rides], dtype=bool) & usable
        if not known.any():
            return None
        actual = target.truth(self._trips)[known]
        values = np.array([predicted[ride] for ride, use in zip(self._rides, known, strict=True) if use])
        return {"rmse": rmse(values, actual), "baseline_rmse": rmse(mean, actual)}


@asynccontextmanager
async def collecting(bus: Bus, scoreboard: Scoreboard) -> AsyncIterator[None]:
    """Add the predictions and dead letters published from now on to the scoreboard."""
    handlers = [bus.configured_handler(target.name) for target in TARGETS]
    topics = [topic for handler in handlers for topic in handler.outputs]
    topics += [dead_letter_topic(handler.topic, handler.options.group) for handler in handlers]
    async with bus.backend.subscribe(topics, group=None, start="latest") as subscription:

        async def add_all() -> None:
            while True:
                for delivery in await subscription.receive(1024):
                    scoreboard.add(delivery.record)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(add_all)
            yield
            tasks.cancel_scope.cancel()
