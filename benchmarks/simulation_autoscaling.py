"""A burst on a stream whose pods an autoscaler adds: KEDA with Prometheus, or the HPA on CPU, simulated.

As Kubernetes documents it (autoscaling/v2), the HPA looks every 15 s; KEDA's `pollingInterval` and
`cooldownPeriod` count between 0 pods and 1 only, unless a trigger has `useCachedMetrics`. A metric with an
average value asks for metric / threshold pods, CPU for pods x use / target. The HPA does nothing within 10%,
takes the largest wish of all triggers, adds at most 4 pods or as many as there are in 15 s, whichever is
more, and removes pods down to the largest wish of the last 300 s.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import simpy

if TYPE_CHECKING:
    from collections.abc import Generator

    Steps = Generator[simpy.Event, object, None]

STEP: Final = 0.5  # seconds between two looks at the flow of events
SYNC: Final = 15.0  # --horizontal-pod-autoscaler-sync-period, and the resolution of the metrics server
AFTER: Final = 1.0  # metrics are taken so long after the HPA has looked: they are old when it looks again
TOLERANCE: Final = 0.1
DOWN_WINDOW: Final = 300.0
DONE: Final = 1.0  # seconds of delay below which a stream has caught up


class Burst(msgspec.Struct, frozen=True):
    """Events a second: `quiet`, and `times` as many for `length` seconds from `start` on."""

    quiet: float
    times: float = 10.0
    start: float = 600.0
    length: float = 600.0
    end: float = 4_200.0

    @property
    def _corners(self) -> tuple[list[float], list[float]]:
        """Moments, and how many events there were until then."""
        before, after = self.quiet * self.start, self.end - self.start - self.length
        during = before + self.quiet * self.times * self.length
        return [0.0, self.start, self.start + self.length, self.end], [
            0.0,
            before,
            during,
            during + self.quiet * after,
        ]

    def published(self, now: float) -> float:
        """Events until a moment."""
        return float(np.interp(now, *self._corners))

    def published_at(self, events: float) -> float:
        """The moment when so many events had come."""
        return float(np.interp(events, *reversed(self._corners)))


class Pod(msgspec.Struct, frozen=True):
    """Events a second that a pod handles, and seconds from the wish for it to its first event."""

    rate: float
    start: float


class Scaler(msgspec.Struct, frozen=True):
    """What an autoscaler is set to; None leaves a trigger out.

    Attributes:
        lag: Unfinished events for each pod.
        cpu: Part of its cores that a pod should use.
        demand: Events a second for each pod: those handled in the last minute, and those that would clear the
            lag in another one.
        scrape: Seconds between two looks of Prometheus.
    """

    lag: float | None = None
    cpu: float | None = None
    demand: float | None = None
    scrape: float = 30.0
    least: int = 2
    most: int = 8


def wishes(scaler: Scaler, lag: float, recent: float, use: float, ready: int, pods: int) -> list[int]:
    """Pods that each trigger asks for, if `recent` events a second were handled by `use` of the cores."""
    found = []
    for value, target in ((lag, scaler.lag), (recent + lag / 60, scaler.demand)):
        if target:
            same = abs(value / (target * pods) - 1) <= TOLERANCE
            found.append(pods if same else math.ceil(value / target))
    if scaler.cpu:
        ratio = use / scaler.cpu
        if ratio > 1:
            ratio = max(ratio * ready / pods, 1.0)  # pods that are not ready count as idle
        same = abs(ratio - 1) <= TOLERANCE
        found.append(pods if same else math.ceil(ratio * (pods if ratio > 1 else ready)))
    return found


def allowed(scaler: Scaler, pods: int, wish: int, before: int) -> int:
    """The next number of pods: `before` is how many there were 15 s ago."""
    return max(scaler.least, min(wish, scaler.most, max(before + 4, 2 * before, pods)))


class Episode:
    """A burst under an autoscaler, simulated to its end.

    Attributes:
        trace: Time, lag, delay of the oldest event, and ready pods, step by step.
        pods: Times, and how many pods there were from then on.
        handled: Events.
    """

    def __init__(self, scaler: Scaler, burst: Burst, pod: Pod) -> None:
        self._env, self._scaler, self.burst, self._pod = simpy.Environment(), scaler, burst, pod
        self._ready_at = [0.0] * scaler.least
        self._possible = self._use = self.handled = 0.0
        self._scraped = [(0.0, 0.0, 0.0)]  # time, lag, handled
        self.pods = [(0.0, scaler.least)]
        self.trace: list[tuple[float, float, float, int]] = []
        for process in (self._flow, self._metrics_server, self._prometheus, self._autoscaler):
            self._env.process(process())
        self._env.run(burst.end)

    @property
    def delay(self) -> float:
        """The most seconds that the oldest event waited."""
        return max(delay for _, _, delay, _ in self.trace)

    @property
    def caught_up(self) -> float:
        """Seconds from the beginning of the burst until the delay stays below a second."""
        begun = self.burst.start
        return max((at - begun for at, _, delay, _ in self.trace if at > begun and delay > DONE), default=0.0)

    @property
    def pod_hours(self) -> float:
        """Of the pods beyond those that are always there."""
        ends = [*(at for at, _ in self.pods[1:]), self.burst.end]
        least = self._scaler.least
        return sum((e - at) * (n - least) for (at, n), e in zip(self.pods, ends, strict=True)) / 3_600

    def _ready(self) -> int:
        return sum(at <= self._env.now for at in self._ready_at)

    def _flow(self) -> Steps:
        while True:
            yield self._env.timeout(STEP)
            now, possible = self._env.now, self._ready() * self._pod.rate * STEP
            self.handled = min(self.burst.published(now), self.handled + possible)
            self._possible += possible
            lag, oldest = self.burst.published(now) - self.handled, self.burst.published_at(self.handled)
            self.trace.append((now, lag, max(now - oldest, 0.0), self._ready()))

    def _metrics_server(self) -> Steps:
        yield self._env.timeout(AFTER)
        while True:
            handled, possible = self.handled, self._possible
            yield self._env.timeout(SYNC)
            self._use = (self.handled - handled) / (self._possible - possible)

    def _prometheus(self) -> Steps:
        yield self._env.timeout(AFTER)
        while True:
            lag = self.burst.published(self._env.now) - self.handled
            self._scraped.append((self._env.now, lag, self.handled))
            yield self._env.timeout(self._scaler.scrape)

    def _autoscaler(self) -> Steps:
        wished: list[tuple[float, int]] = []
        while True:
            yield self._env.timeout(SYNC)
            now, pods = self._env.now, len(self._ready_at)
            wish = max(wishes(self._scaler, *self._seen(), self._use, self._ready(), pods))
            wished = [(at, n) for at, n in wished if now - at <= DOWN_WINDOW] + [(now, wish)]
            wish = max(wish, min(pods, max(number for _, number in wished)))
            before = next(number for at, number in reversed(self.pods) if at <= now - SYNC)
            number = allowed(self._scaler, pods, wish, before)
            if number != pods:
                self.pods.append((now, number))
                new = [now + self._pod.start] * (number - pods)
                self._ready_at = sorted(self._ready_at)[:number] + new

    def _seen(self) -> tuple[float, float]:
        """The lag, and the events a second of the last minute, as Prometheus knows them."""
        ended, lag, last = self._scraped[-1]
        begun, _, first = next(scrape for scrape in self._scraped if scrape[0] >= ended - 60)
        return lag, (last - first) / (ended - begun) if ended > begun else 0.0
