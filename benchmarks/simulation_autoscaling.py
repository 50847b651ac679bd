"""A burst on a stream whose pods an autoscaler adds: KEDA with Prometheus, or the HPA on CPU, simulated.

What Kubernetes does is taken from its documentation (autoscaling/v2). The HPA looks every 15 s: KEDA's
`pollingInterval` and `cooldownPeriod` count between 0 pods and 1 only, unless a trigger has `useCachedMetrics`. A metric
with an average value asks for metric / threshold pods, whatever there is; CPU asks for pods x use / target. The HPA
does nothing within 10 %, takes the largest wish of all triggers, adds at most the larger of 4 pods and as many as there
are in 15 s, and removes pods only down to the largest wish of the last 300 s.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import simpy

if TYPE_CHECKING:
    from collections.abc import Generator

    Steps = Generator[simpy.Event, object, None]

STEP: Final = 0.5  # seconds between two looks at the flow of events
SYNC: Final = 15.0  # --horizontal-pod-autoscaler-sync-period, and the resolution of the metrics server
TOLERANCE: Final = 0.1
DONE: Final = 1.0  # seconds of delay below which a stream has caught up


class Burst(msgspec.Struct, frozen=True):
    """Events a second: `quiet`, and `times` as many for `length` seconds from `start` on."""

    quiet: float
    times: float = 10.0
    start: float = 600.0
    length: float = 600.0
    end: float = 4_200.0

    def rate(self, now: float) -> float:
        return self.quiet * (self.times if self.start <= now < self.start + self.length else 1.0)

    def published(self, now: float) -> float:
        """Events until a moment."""
        return self.quiet * (now + (self.times - 1) * min(max(now - self.start, 0.0), self.length))

    def published_at(self, events: float) -> float:
        """The moment when so many events had come."""
        before, high = self.quiet * self.start, self.quiet * self.times
        if events <= before:
            return events / self.quiet
        if events <= before + high * self.length:
            return self.start + (events - before) / high
        return self.start + self.length + (events - before - high * self.length) / self.quiet


class Pod(msgspec.Struct, frozen=True):
    """Events a second that a pod handles, and seconds from the wish for it to its first event."""

    rate: float
    start: float


class Scaler(msgspec.Struct, frozen=True):
    """What an autoscaler is set to.

    Attributes:
        lag: Unfinished events for each pod; None without this trigger.
        cpu: Part of its cores that a pod should use.
        demand: Events a second for each pod, of those that were handled in the last minute and a part of the lag.
        clear: Seconds in which `demand` wants the lag to be gone.
        scrape: Seconds between two looks of Prometheus.
    """

    lag: float | None = None
    cpu: float | None = None
    demand: float | None = None
    clear: float = 60.0
    scrape: float = 30.0
    least: int = 2
    most: int = 8
    up_pods: int = 4
    up_percent: float = 100.0
    down_window: float = 300.0


class Episode(msgspec.Struct, frozen=True):
    """What became of a burst.

    Attributes:
        behind: The most events that waited, and `delay` the most seconds that the oldest of them did.
        caught_up: Seconds from the beginning of the burst until the delay stays below a second; None if it never does.
        late: Seconds in which the delay was more than 30 s.
        most: Pods at once.
        pod_hours: Of all pods, beyond those that are always there.
        changes: How often the number of pods was changed.
        trace: Time, delay and ready pods, every few seconds.
    """

    published: float
    handled: float
    waiting: float
    behind: float
    delay: float
    caught_up: float | None
    late: float
    most: int
    pod_hours: float
    changes: int
    trace: list[tuple[float, float, int]]


@dataclass
class _State:
    """Pods and events between two steps of the simulation."""

    ready_at: list[float]
    handled: float = 0.0
    lag: float = 0.0
    use: float = 0.0


def wishes(scaler: Scaler, lag: float, recent: float, use: float, ready: int, pods: int) -> list[int]:
    """Pods that each trigger asks for.

    Args:
        scaler: The settings.
        lag: Unfinished events.
        recent: Events a second handled in the last minute.
        use: Part of its cores that a ready pod uses on average.
        ready: Pods that work.
        pods: Pods that were asked for.
    """
    found = []
    for value, target in ((lag, scaler.lag), (recent + lag / scaler.clear, scaler.demand)):
        if target:
            same = abs(value / (target * pods) - 1) <= TOLERANCE
            found.append(pods if same else math.ceil(value / target))
    if scaler.cpu:
        ratio = use / scaler.cpu
        if ratio > 1:  # pods that are not ready count as idle
            ratio = max(ratio * ready / pods, 1.0)
        found.append(pods if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * (pods if ratio > 1 else ready)))
    return found


def allowed(scaler: Scaler, pods: int, wish: int, before: int) -> int:
    """The next number of pods: `before` is how many there were 15 s ago."""
    limit = max(before + scaler.up_pods, math.ceil(before * (1 + scaler.up_percent / 100)))
    return max(scaler.least, min(wish, scaler.most, max(limit, pods)))


def autoscale(scaler: Scaler, burst: Burst, pod: Pod) -> Episode:
    """Simulate a burst."""
    env = simpy.Environment()
    state = _State([0.0] * scaler.least)
    scraped: deque[tuple[float, float, float]] = deque([(0.0, 0.0, 0.0)])  # time, lag, handled
    pods_of: list[tuple[float, int]] = [(0.0, scaler.least)]
    seen: list[tuple[float, float, float, int]] = []  # time, lag, delay, ready pods

    def flow() -> Steps:
        while True:
            yield env.timeout(STEP)
            ready = sum(at <= env.now for at in state.ready_at)
            can, there = ready * pod.rate * STEP, burst.published(env.now) - state.handled
            served = min(can, there)
            state.handled += served
            state.lag = there - served
            state.use += (served / can if can else 1.0) * STEP / SYNC - state.use * STEP / SYNC
            seen.append((env.now, state.lag, max(env.now - burst.published_at(state.handled), 0.0), ready))

    def prometheus() -> Steps:
        while True:
            yield env.timeout(scaler.scrape)
            scraped.append((env.now, state.lag, state.handled))
            while env.now - scraped[0][0] > max(60.0, scaler.scrape):
                scraped.popleft()

    def autoscaler() -> Steps:
        wished: deque[tuple[float, int]] = deque()
        while True:
            yield env.timeout(SYNC)
            (begun, _, first), (ended, lag, last) = scraped[0], scraped[-1]
            recent = (last - first) / (ended - begun) if ended > begun else burst.quiet
            pods = len(state.ready_at)
            ready = sum(at <= env.now for at in state.ready_at)
            wish = max(wishes(scaler, lag, recent, state.use, ready, pods))
            wished.append((env.now, wish))
            while env.now - wished[0][0] > scaler.down_window:
                wished.popleft()
            wish = max(wish, min(pods, max(number for _, number in wished)))
            before = next(number for at, number in reversed(pods_of) if at <= env.now - SYNC)
            number = allowed(scaler, pods, wish, before)
            if number != pods:
                pods_of.append((env.now, number))
                state.ready_at = sorted(state.ready_at)[:number] + [env.now + pod.start] * (number - pods)

    for process in (flow, prometheus, autoscaler):
        env.process(process())
    env.run(burst.end)
    return _episode(state, burst, seen, pods_of, scaler.least)


def _episode(
    state: _State,
    burst: Burst,
    seen: list[tuple[float, float, float, int]],
    pods_of: list[tuple[float, int]],
    least: int,
) -> Episode:
    last_late = max((at for at, _, delay, _ in seen if at > burst.start and delay > DONE), default=burst.start)
    ends = [*(at for at, _ in pods_of[1:]), burst.end]
    return Episode(
        published=burst.published(seen[-1][0]),
        handled=state.handled,
        waiting=state.lag,
        behind=max(lag for _, lag, _, _ in seen),
        delay=max(delay for _, _, delay, _ in seen),
        caught_up=None if last_late >= seen[-1][0] else last_late - burst.start,
        late=sum(STEP for _, _, delay, _ in seen if delay > 30),
        most=max(number for _, number in pods_of),
        pod_hours=sum((end - at) * (n - least) for (at, n), end in zip(pods_of, ends, strict=True)) / 3_600,
        changes=len(pods_of) - 1,
        trace=[(at, delay, ready) for at, _, delay, ready in seen[::10]],
    )
