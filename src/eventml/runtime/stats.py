"""The counters and histograms of one handler, updated once a batch."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Final, Literal

from eventml.backends.base import Completion, CountsLost
from eventml.runtime.failures.outages import BrokerFailure, OutageLog

Stage = Literal["receive", "decode", "call", "encode", "complete"]

SECONDS_BUCKETS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
"""Upper bounds of the buckets for durations, in seconds."""

SIZE_BUCKETS: Final = tuple(float(2**power) for power in range(13))
"""Upper bounds of the buckets for the sizes of batches."""

_LATENCY_SAMPLES: Final = 16  # of each batch
_BEFORE_IN_FLIGHT: Final[tuple[Stage, ...]] = ("receive", "decode")


class Histogram:
    """Counts of values by bucket, and the sum of the values. Histograms of several workers can be added up.

    `bounds` are the upper bounds of the buckets, rising; one more bucket takes the values above the last one.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0.0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Count a value, as often as `weight` says."""
        self.counts[bisect_left(self.bounds, value)] += weight
        self.sum += value * weight


class Stats:
    """The counters of one handler since its worker started. Times are of the monotonic clock, in seconds.

    Attributes:
        received: Deliveries received.
        completed: Deliveries completed: with an output, without one, or as a dead letter.
        published: Outputs published, without dead letters.
        dead_letters: Events moved to the dead letters.
        failed: Events that were answered with a failure, rejections included, and are no dead letters.
        duplicates: Events that were not called because their ids had been completed before (`dedupe_window`).
        skipped: Events that were not called because by a header they were replayed for another group.
        stale: Events that were older than `max_age` when their turn came.
        retries: Calls that were made because the one before had failed.
        calls: Calls of the handler.
        abandoned: Calls that ran past their timeout in a thread that could not be stopped; see also `hung`.
        subscription: Counts the records that were removed before the group had completed them, if it can.
        last_arrival: When a delivery was last received.
        last_progress: When the events in flight last made progress: a call or a completion began or ended, or
            a delivery arrived while none was in flight.
        latency: Seconds from the broker's timestamp to the completion.
        batch: The sizes of the batches that the handler was called with.
        failing: The steps whose last attempt at the broker failed, by name: `receive`, `complete`,
            `counting attempts`, `looking up ids`.
        outages: Logs the steps that fail, for all handlers of a worker.
        breaker_open: Why the handler has stopped taking events; empty if it has not. See `breaker_window`.
        model_updates: How often a new version of the model has taken over.
        models_refused: New versions of the model that could not be loaded, or failed their checks.
        model_refused: Why the newest version of the model is not used; empty if it is.
        canary_events: Events for which the canary was called.
        canary_worse: Why the canary is worse than the model; empty if that is not known.
        canary_share: The share of the keys that the canary answers for.
        model_since: When the version of the model that is in use was taken over.
        field: Field of a prediction that has its number, as in `Profile`.
        predictions: The numbers of predictions, sampled; `canary_predictions` are those of the canary.
        stages: How long each stage takes for a batch, in seconds. `receive` includes the wait for deliveries.
    """

    def __init__(self, outages: OutageLog | None = None, bounds: Sequence[float] = (), key: str = "") -> None:
        self.received = 0
        self.completed = 0
        self.published = 0
        self.dead_letters = 0
        self.failed = 0
        self.duplicates = 0
        self.skipped = 0
        self.stale = 0
        self.retries = 0
        self.calls = 0
        self.abandoned = 0
        self.subscription: CountsLost | None = None
        self.last_arrival = self.last_progress = time.monotonic()
        self.latency = Histogram(SECONDS_BUCKETS)
        self.batch = Histogram(SIZE_BUCKETS)
        self.failing: dict[str, BrokerFailure] = {}
        self.outages = outages or OutageLog()
        self.breaker_open = ""
        self.model_updates = 0
        self.models_refused = 0
        self.model_refused = ""
        self.canary_events = 0
        self.canary_worse = ""
        self.canary_share = 0.0
        self.model_since = self.last_arrival
        self.field = key
        self.predictions, self.canary_predictions = Histogram(bounds), Histogram(bounds)
        self.stages: dict[Stage, Histogram] = {}
        self._arrivals: deque[tuple[int, float]] = deque()
        self._abandoned: list[tuple[float, Event]] = []

    def abandon_thread(self, ended: Event) -> None:
        """Count a call whose thread cannot be stopped. `ended` is set if the thread ends by itself."""
        self.abandoned += 1
        self._abandoned.append((time.monotonic(), ended))

    @property
    def hung(self) -> list[float]:
        """When each call was abandoned whose thread is still running."""
        self._abandoned = [(since, ended) for since, ended in self._abandoned if not ended.is_set()]
        return [since for since, _ in self._abandoned]

    @property
    def lost(self) -> int:
        """Records that were removed before the group had completed them, as far as is known."""
        return 0 if self.subscription is None else self.subscription.lost

    @property
    def in_flight(self) -> int:
        """Deliveries received and not completed."""
        return self.received - self.completed

    @property
    def oldest_arrival(self) -> float | None:
        """When the oldest event in flight arrived; None if there is none.

        An estimate: completions are taken to be in order, which those behind a retried event are not.
        """
        return self._arrivals[0][1] if self._arrivals else None

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Measure one stage's work on one batch."""
        begun = time.monotonic()
        if stage not in _BEFORE_IN_FLIGHT:
            self.last_progress = begun
        try:
            yield
        finally:
            ended = time.monotonic()
            if stage not in self.stages:
                self.stages[stage] = Histogram(SECONDS_BUCKETS)
            self.stages[stage].add(ended - begun)
            if stage not in _BEFORE_IN_FLIGHT:
                self.last_progress = ended

    def arrived(self, deliveries: int) -> None:
        """Count received deliveries."""
        now = self.last_arrival = time.monotonic()
        if not self.in_flight:
            self.last_progress = now
        self.received += deliveries
        self._arrivals.append((self.received, now))

    def finished(self, completed: Sequence[Completion], *, published: int, dead_letters: int) -> None:
        """Count a completed batch. Latency is measured on evenly spaced samples, to cost less per event."""
        self.completed += len(completed)
        self.published += published
        self.dead_letters += dead_letters
        self.last_progress = time.monotonic()
        while self._arrivals and self._arrivals[0][0] <= self.completed:
            self._arrivals.popleft()
        now = time.time()
        sample = completed[:: max(len(completed) // _LATENCY_SAMPLES, 1)]
        for completion in sample:
            seconds = now - completion.delivery.timestamp
            self.latency.add(max(seconds, 0.0), len(completed) / len(sample))
