"""Collecting the predictions of a demo, and scoring them against what really happened."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import numpy as np

from eventml.runtime import DLQ_PREFIX
from eventml.runtime.dead_letters import dead_letter_topic
from examples.rides.targets import TARGETS, rmse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml import Bus
    from eventml.records import Record
    from examples.rides.targets import Target
    from examples.rides.trips import Trips

_FIELDS = {"rides.duration": "minutes", "rides.tip": "amount"}


class Scoreboard:
    """Every prediction of the rides of this demo, by handler and ride.

    Attributes:
        predictions: For each predictor, the predicted number by ride id.
        answers: How many records each predictor wrote: more than predictions where one came twice.
        dead_letters: For each predictor, why rides were set aside, by ride id.
        ids: Every prediction's record id, by predictor and ride id.
    """

    def __init__(self, trips: Trips) -> None:
        self._trips = trips
        self._rides = trips.ride_ids()
        self._mine = set(self._rides)
        names = [target.name for target in TARGETS]
        self.predictions: dict[str, dict[str, float]] = {name: {} for name in names}
        self.ids: dict[str, dict[str, str]] = {name: {} for name in names}
        self.answers: Counter[str] = Counter()
        self.dead_letters: dict[str, dict[str, str]] = {name: {} for name in names}

    def note(self, record: Record) -> None:
        """Take in a prediction or a dead letter; those of other runs on the same topics are passed over."""
        if record.topic in _FIELDS:
            name, field = record.topic.removeprefix("rides."), _FIELDS[record.topic]
            event: dict[str, Any] = msgspec.json.decode(record.value)
            if event["ride_id"] in self._mine:
                self.predictions[name][event["ride_id"]] = event[field]
                self.ids[name][event["ride_id"]] = record.id
                self.answers[name] += 1
        elif record.id in self._mine:
            name = record.headers[f"{DLQ_PREFIX}group"].removeprefix("rides.")
            self.dead_letters[name][record.id] = record.headers[f"{DLQ_PREFIX}message"]

    def answered(self, name: str) -> int:
        """For how many rides there is a prediction or a dead letter."""
        return len(self.predictions[name].keys() | self.dead_letters[name].keys())

    def score(self, target: Target, mean: float) -> dict[str, float] | None:
        """The model's error on these trips, beside that of always guessing `mean`; None without any truth."""
        predicted = self.predictions[target.name]
        usable = target.usable(self._trips)
        known = np.array([ride in predicted for ride in self._rides], dtype=bool) & usable
        if not known.any():
            return None
        truth = target.truth(self._trips)[known]
        guesses = np.array([predicted[ride] for ride, use in zip(self._rides, known, strict=True) if use])
        return {"rmse": rmse(guesses, truth), "baseline_rmse": rmse(mean, truth)}


@asynccontextmanager
async def watching(bus: Bus, scoreboard: Scoreboard) -> AsyncIterator[None]:
    """Note what the predictors write from now on, dead letters included."""
    handlers = [bus.configured_handler(target.name) for target in TARGETS]
    topics = [handler.to for handler in handlers if handler.to]
    topics += [dead_letter_topic(handler.topic, handler.options.group) for handler in handlers]
    async with bus.backend.subscribe(topics, group=None, start="latest") as reader:

        async def note_all() -> None:
            while True:
                for delivery in await reader.receive(1024):
                    scoreboard.note(delivery.record)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note_all)
            yield
            tasks.cancel_scope.cancel()
