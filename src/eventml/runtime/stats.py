"""What one handler has done: counters and a latency histogram, touched once a batch."""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from eventml.runtime.histogram import SECONDS, SIZES, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from threading import Event

    from eventml.records import Delivery

Stage = Literal["receive", "decode", "call", "encode", "complete"]

_PER_DOUBLING = 8  # buckets: a percentile is right to within 9%
_SMALLEST = 1e-6  # seconds
_BUCKETS = 40 * _PER_DOUBLING
_SAMPLES = 16  # of a batch
_BEFORE_HAND: tuple[Stage, ...] = ("receive", "decode")


class Latencies:
    """A histogram of seconds in buckets of equal ratio: flat in memory, whatever it counts."""

    def __init__(self) -> None:
        self._counts = [0.0] * _BUCKETS
        self._total = 0.0

    def add(self, seconds: float, weight: float = 1.0) -> None:
        bucket = int(math.log2(max(seconds, _SMALLEST) / _SMALLEST) * _PER_DOUBLING)
        self._counts[min(bucket, _BUCKETS - 1)] += weight
        self._total += weight

    def percentile(self, share: float) -> float | None:
        """The latency that this share of events did not exceed, in seconds; None before the first."""
        if not self._total:
            return None
        wanted, seen, found = share * self._total, 0.0, 0
        for bucket, count in enumerate(self._counts):
            if count:
                seen, found = seen + count, bucket
                if seen >= wanted:
                    break
        # Weights are rounded, so their sum may fall short of the total: it is the last bucket then.
        return _SMALLEST * math.exp2((found + 0.5) / _PER_DOUBLING)


class Stats:
    """One handler's counters since it started.

    Attributes:
        received: Deliveries taken in.
        completed: Deliveries finished, one way or another.
        published: Outputs written, dead letters not counted.
        dead_letters: Events set aside.
        duplicates: Events passed over because their ids had been finished before (`dedupe_window`).
        stale: Events that were too old when their turn came.
        retries: Calls repeated because the one before had failed.
        calls: Calls of the handler.
        abandoned: Calls past their timeout whose threads could not be stopped; see also `hung`.
        last_arrival: When something was last received, by the monotonic clock, in seconds.
        last_completion: When something was last finished, by the same clock.
        last_progress: When it last got anywhere with what is in hand, by the same clock: a call or a
            completion began or ended, or something arrived while nothing was in hand.
        latencies: From the broker's timestamp to the completion.
        latency: The same, as a histogram that adds to those of other workers.
        batch: The sizes of the batches that the handler was called with.
        stages: How long each stage takes, a batch at a time, in seconds. `receive` includes waiting
            for events to come.
    """

    def __init__(self) -> None:
        self.received = 0
        self.completed = 0
        self.published = 0
        self.dead_letters = 0
        self.duplicates = 0
        self.stale = 0
        self.retries = 0
        self.calls = 0
        self.abandoned = 0
        self.last_arrival = self.last_completion = self.last_progress = time.monotonic()
        self.latencies = Latencies()
        self.latency = Histogram(SECONDS)
        self.batch = Histogram(SIZES)
        self.stages: dict[Stage, Histogram] = {}
        self._arrivals: deque[tuple[int, float]] = deque()
        self._abandoned: list[tuple[float, Event]] = []

    def gave_up(self, ended: Event) -> None:
        """Count a call whose thread cannot be stopped. `ended` is set if that ends by itself."""
        self.abandoned += 1
        self._abandoned.append((time.monotonic(), ended))

    @property
    def hung(self) -> list[float]:
        """When the calls were given up on whose threads are still running, by the monotonic clock."""
        self._abandoned = [(since, ended) for since, ended in self._abandoned if not ended.is_set()]
        return [since for since, _ in self._abandoned]

    @property
    def in_flight(self) -> int:
        return self.received - self.completed

    @property
    def oldest_arrival(self) -> float | None:
        """When the oldest event in hand arrived, by the monotonic clock; None while there is none.

        Events that are finished out of turn, past one that is tried again, are taken for that one.
        """
        return self._arrivals[0][1] if self._arrivals else None

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Around one stage's work on one batch."""
        begun = time.monotonic()
        if stage not in _BEFORE_HAND:
            self.last_progress = begun
        try:
            yield
        finally:
            ended = time.monotonic()
            if stage not in self.stages:
                self.stages[stage] = Histogram(SECONDS)
            self.stages[stage].add(ended - begun)
            if stage not in _BEFORE_HAND:
                self.last_progress = ended

    def arrived(self, deliveries: int) -> None:
        now = self.last_arrival = time.monotonic()
        if not self.in_flight:
            self.last_progress = now
        self.received += deliveries
        self._arrivals.append((self.received, now))

    def finished(self, deliveries: Sequence[Delivery], *, published: int, dead_letters: int) -> None:
        """Count a finished batch, its latency by evenly spaced samples: a batch is cheap, an event dear."""
        self.completed += len(deliveries)
        self.published += published
        self.dead_letters += dead_letters
        self.last_completion = self.last_progress = time.monotonic()
        while self._arrivals and self._arrivals[0][0] <= self.completed:
            self._arrivals.popleft()
        self._observe(deliveries)

    def _observe(self, deliveries: Sequence[Delivery]) -> None:
        now = time.time()
        step = max(len(deliveries) // _SAMPLES, 1)
        sample = deliveries[::step]
        for delivery in sample:
            seconds, weight = now - delivery.timestamp, len(deliveries) / len(sample)
            self.latencies.add(seconds, weight)
            self.latency.add(max(seconds, 0.0), weight)
