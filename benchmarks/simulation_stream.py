"""A stream as a discrete-event simulation: workers and servers, and the cores that they share.

A worker receives, decodes, calls, encodes and completes batches as `docs/architecture.md` describes it: two
ahead of the call, one in the call, two in completion. What it does in Python holds its GIL. A server runs one
command at a time. Whatever runs, runs on cores that share their time evenly among all that want them.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any

import msgspec
import simpy

if TYPE_CHECKING:
    from collections.abc import Generator

    Steps = Generator[simpy.Event, Any, None]


class Cost(msgspec.Struct, frozen=True):
    """CPU seconds of one step."""

    batch: float
    event: float

    def of(self, events: int) -> float:
        return self.batch + self.event * events


class Costs(msgspec.Struct, frozen=True):
    """What a worker and a server need for a batch.

    Attributes:
        read: The server, to return a batch.
        complete: The server, to add the outputs and acknowledge the inputs.
        decode: The worker's event loop, ahead of the call; `encode`: behind it.
        call: The handler.
        held: Part of the handler's time in which it holds the GIL.
        lost: Seconds for each event in which the worker has the GIL and waits (for replies, for its turn).
        crowded: Part of a core's time that is lost while more threads want to run than there are cores.
    """

    read: Cost
    complete: Cost
    decode: Cost
    encode: Cost
    call: Cost
    held: float
    lost: float = 0.0
    crowded: float = 0.0


class Cores:
    """Cores that share their time evenly among the threads that want to run (processor sharing)."""

    def __init__(self, env: simpy.Environment, number: float, crowded: float = 0.0) -> None:
        self._env, self._number, self._crowded = env, number, crowded
        self._served = self._seen = 0.0  # CPU seconds of a thread that has been there from the start
        self._running: list[tuple[float, int, simpy.Event]] = []
        self._order, self._planned = count(), 0
        self.busy = 0.0
        """CPU seconds of all threads."""

    def run(self, seconds: float) -> simpy.Event:
        """Return the event that comes when a thread has had so many CPU seconds."""
        self._advance()
        done = self._env.event()
        heapq.heappush(self._running, (self._served + seconds, next(self._order), done))
        self._plan()
        return done

    def _advance(self) -> None:
        passed, self._seen = self._env.now - self._seen, self._env.now
        self._served += passed * self._speed()
        self.busy += passed * min(len(self._running), self._number)

    def _speed(self) -> float:
        share = min(1.0, self._number / max(len(self._running), 1))
        return share * (1 - self._crowded if len(self._running) >= self._number + 1 else 1)

    def _plan(self) -> None:
        self._planned += 1
        if self._running:
            left = max(self._running[0][0] - self._served, 0.0)
            self._env.timeout(left / self._speed(), self._planned).callbacks.append(self._end)

    def _end(self, event: simpy.Event) -> None:
        if event.value != self._planned:
            return  # a thread has come or gone since
        self._advance()
        self._served = max(self._served, self._running[0][0])  # whatever rounding says
        while self._running and self._running[0][0] <= self._served:
            heapq.heappop(self._running)[2].succeed()
        self._plan()


class Topic:
    """The events of a topic on one server, and what became of them."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._arrived = env.event()
        self.waiting: deque[float] = deque()
        """When each event came that nobody has received."""
        self.ends: list[tuple[float, int]] = []
        """When how many events were completed."""
        self.published = 0
        self.spent = 0.0
        """Seconds that all completed events were there, by their times; `area`: by how many were there."""
        self.area = 0.0
        self._there, self._seen = 0, 0.0

    def _count(self, change: int) -> None:
        self.area += self._there * (self._env.now - self._seen)
        self._there, self._seen = self._there + change, self._env.now

    def publish(self, events: int) -> None:
        self._count(events)
        self.published += events
        self.waiting.extend([self._env.now] * events)
        self._arrived.succeed()
        self._arrived = self._env.event()

    def wait(self) -> simpy.Event:
        return self._arrived

    def take(self, most: int) -> list[float]:
        return [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]

    def complete(self, batch: list[float]) -> None:
        self._count(-len(batch))
        self.ends.append((self._env.now, len(batch)))
        self.spent += sum(self._env.now - came for came in batch)


@dataclass
class _Server:
    env: simpy.Environment
    cores: Cores

    def __post_init__(self) -> None:
        self.topic = Topic(self.env)
        self.thread = simpy.Resource(self.env)
        self.busy = 0.0

    def run(self, seconds: float) -> Steps:
        with self.thread.request() as turn:
            yield turn
            self.busy += seconds
            yield self.cores.run(seconds)


class _Worker:
    """One worker: three stages, each a process of the simulation."""

    def __init__(self, server: _Server, costs: Costs, most: int) -> None:
        self._server, self._costs, self._most = server, costs, most
        self._env, self._cores = server.env, server.cores
        self._gil = simpy.Resource(self._env)
        self._received = simpy.Store(self._env, 1)  # and one more that the stage before it holds
        self._called = simpy.Store(self._env, 1)
        for stage in (self._receive, self._call, self._complete):
            self._env.process(stage())

    def _python(self, seconds: float, lost: float = 0.0) -> Steps:
        with self._gil.request() as turn:
            yield turn
            yield self._cores.run(seconds)
            yield self._env.timeout(lost)

    def _receive(self) -> Steps:
        topic = self._server.topic
        while True:
            while not topic.waiting:
                yield topic.wait()
            batch = topic.take(self._most)
            yield from self._server.run(self._costs.read.of(len(batch)))
            yield from self._python(self._costs.decode.of(len(batch)))
            yield self._received.put(batch)

    def _call(self) -> Steps:
        while True:
            batch = yield self._received.get()
            seconds, held = self._costs.call.of(len(batch)), self._costs.held
            yield from self._python(seconds * held / 2)
            yield self._cores.run(seconds * (1 - held))
            yield from self._python(seconds * held / 2, self._costs.lost * len(batch))
            yield self._called.put(batch)

    def _complete(self) -> Steps:
        while True:
            batch = yield self._called.get()
            yield from self._python(self._costs.encode.of(len(batch)))
            yield from self._server.run(self._costs.complete.of(len(batch)))
            self._server.topic.complete(batch)


class Outcome(msgspec.Struct, frozen=True):
    """What a run of the simulation shows.

    Attributes:
        rate: Events a second, between the first and the last tenth of the completed ones.
        latency: Mean seconds from publishing to completion.
        present: Mean number of events that are published and not completed.
        cores: Busy cores, and `servers` busy parts of each server's one thread, over the whole run.
        seconds: Length of the run.
    """

    published: int
    completed: int
    rate: float
    latency: float
    present: float
    cores: float
    servers: list[float]
    seconds: float


def simulate(
    costs: Costs,
    *,
    workers: int,
    servers: int = 1,
    cores: float = float("inf"),
    events: int = 60_000,
    rate: float | None = None,
    most: int = 1024,
    seed: int = 0,
) -> Outcome:
    """Run a stream until all its events are completed.

    Args:
        costs: Of a batch.
        workers: They are spread over the servers, and so are the events.
        servers: Each with one topic.
        cores: What all processes share.
        events: For each worker.
        rate: Events a second that come (Poisson); None if all are there from the beginning.
        most: Events in a batch.
        seed: Of the times at which events come.
    """
    env = simpy.Environment()
    machine = Cores(env, cores, costs.crowded)
    nodes = [_Server(env, machine) for _ in range(servers)]
    for number in range(workers):
        _Worker(nodes[number % servers], costs, most)
    total = events * workers

    def come() -> Steps:
        chance = random.Random(seed)
        for number in range(total):
            if rate:
                yield env.timeout(chance.expovariate(rate))
            nodes[number % servers].topic.publish(1)

    if rate:
        env.process(come())
    else:
        for number, node in enumerate(nodes):
            node.topic.publish(events * len(range(number, workers, servers)))
    env.run()  # until nothing happens any more
    ends = sorted(end for node in nodes for end in node.topic.ends)
    completed = sum(events for _, events in ends)
    seconds = ends[-1][0]
    return Outcome(
        published=sum(node.topic.published for node in nodes),
        completed=completed,
        rate=_middle_rate(ends, completed),
        latency=sum(node.topic.spent for node in nodes) / completed,
        present=sum(node.topic.area for node in nodes) / seconds,
        cores=machine.busy / seconds,
        servers=[node.busy / seconds for node in nodes],
        seconds=seconds,
    )


def _middle_rate(ends: list[tuple[float, int]], completed: int) -> float:
    """As it is measured: without the beginning and the end, where workers have nothing to do."""
    done = list(accumulate(events for _, events in ends))
    first, last = (bisect_left(done, completed * part) for part in (0.1, 0.9))
    if ends[first][0] == ends[last][0]:
        return completed / ends[-1][0]
    return (done[last] - done[first]) / (ends[last][0] - ends[first][0])
