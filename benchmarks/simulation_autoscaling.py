"""A burst on a stream whose pods an autoscaler adds: KEDA with Prometheus, or the HPA on CPU, simulated.

As Kubernetes documents it (autoscaling/v2), the HPA looks every 15 s; KEDA's `pollingInterval` and
`cooldownPeriod` count between 0 pods and 1 only, unless a trigger has `useCachedMetrics`. A metric with an
average value asks for metric / threshold pods, CPU for pods x use / target. The HPA does nothing within 10%,
takes the largest wish of all triggers, adds at most 4 pods or as many as there are in 15 s, whichever is
more, and removes pods down to the largest wish of the last 300 s.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np

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
        times = [0.0, self.start, self.start + self.length, self.end]
        rates = [self.quiet, self.quiet * self.times, self.quiet]
        return times, [0.0, *np.cumsum(np.multiply(rates, np.diff(times))).tolist()]

    def published(self, now: float) -> float:
        """Events until a moment."""
        return float(np.interp(now, *self._corners))

    def published_at(self, events: float) -> float:
        """The moment when so many events had come."""
        times, until = self._corners
        return float(np.interp(events, until, times))


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


class Episode(msgspec.Struct):
    """A burst under an autoscaler.

    Attributes:
        trace: Time, lag, delay of the oldest event, and ready pods, step by step.
        pods: Times, and how many pods there were from then on.
        handled: Events.
    """

    burst: Burst
    trace: list[tuple[float, float, float, int]]
    pods: list[tuple[float, int]]
    handled: float = 0.0

    @property
    def delay(self) -> float:
        """The most seconds that the oldest event waited."""
        return max(delay for _, _, delay, _ in self.trace)

    @property
    def caught_up(self) -> float:
        """Seconds from the beginning of the burst until the delay stays below a second."""
        begun = self.burst.start
        return max((at - begun for at, _, delay, _ in self.trace if at > begun and delay > DONE), default=0.0)


def follow(scaler: Scaler, burst: Burst, pod: Pod) -> Episode:
    """Simulate a burst to its end, step by step."""
    found = Episode(burst, [], [(0.0, scaler.least)])
    ready_at, wished = [0.0] * scaler.least, list[tuple[float, int]]()
    possible = use = 0.0
    scraped, metered = [(0.0, 0.0, 0.0)], (0.0, 0.0)
    for step in range(1, int(burst.end / STEP) + 1):
        now = step * STEP
        if now % SYNC == 0:
            pods, ready = len(ready_at), sum(at <= now for at in ready_at)
            ended, lag, last = scraped[-1]
            begun, _, first = next(scrape for scrape in scraped if scrape[0] >= ended - 60)
            recent = (last - first) / (ended - begun) if ended > begun else 0.0
            wish = max(wishes(scaler, lag, recent, use, ready, pods))
            wished = [(at, n) for at, n in wished if now - at <= DOWN_WINDOW] + [(now, wish)]
            wish = max(wish, min(pods, max(number for _, number in wished)))
            before = next(number for at, number in reversed(found.pods) if at <= now - SYNC)
            if (number := allowed(scaler, pods, wish, before)) != pods:
                found.pods.append((now, number))
                ready_at = sorted(ready_at)[:number] + [now + pod.start] * (number - pods)
        ready = sum(at <= now for at in ready_at)
        possible += ready * pod.rate * STEP
        found.handled = min(burst.published(now), found.handled + ready * pod.rate * STEP)
        lag, oldest = burst.published(now) - found.handled, burst.published_at(found.handled)
        found.trace.append((now, lag, max(now - oldest, 0.0), ready))
        if now % scaler.scrape == AFTER:
            scraped.append((now, lag, found.handled))
        if now % SYNC == AFTER:
            if metered[1]:
                use = (found.handled - metered[0]) / (possible - metered[1])
            metered = found.handled, possible
    return found
