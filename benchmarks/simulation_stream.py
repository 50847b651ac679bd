"""A stream as a discrete-event simulation: workers and servers, and the cores that they share.

A worker reads, decodes, calls, encodes and completes batches as `docs/architecture.md` describes it; what it
does in Python holds its GIL. A server does one thing at a time. Cores are shared as Linux shares them: each
has a run queue, and a thread that waits behind one of another process finds cold caches.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import simpy

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    Steps = Generator[simpy.Event, Any, None]

TICK: Final = 4e-3  # seconds: Linux at 250 Hz lets the next thread run, and balances the queues, at a tick
SYSTEM_CALL: Final = 1e-6  # seconds in which a thread finds its next work without giving up its core
PART: Final = 65_536  # bytes that Redis writes to a client before it looks at the others
VARIES: Final = 0.3  # each run takes up to so much more or less: otherwise all keep step for ever


class Cost(msgspec.Struct, frozen=True):
    """Seconds of a batch by its number of events: of some sizes, and on the lines between them."""

    events: list[int]
    seconds: list[float]

    def of(self, events: int) -> float:
        return float(np.interp(events, self.events, self.seconds))


class Costs(msgspec.Struct, frozen=True):
    """What a batch needs, in CPU seconds.

    Attributes:
        server: The server: a part `read` of it to return a batch, the rest to complete it.
        loop: The worker's event loop: a quarter each to parse, to decode, to encode, and to complete.
        call: The handler.
        lost: Seconds in which the worker has its GIL and none of its threads runs: one waits to be woken.
        reply: Bytes of an event in the server's reply.
    """

    server: Cost
    loop: Cost
    call: Cost
    lost: Cost
    read: float
    reply: float


@dataclass(eq=False)
class Thread:
    """A thread of a process, and the core that it ran on last."""

    process: object
    core: int = 0


@dataclass(eq=False)
class _Work:
    thread: Thread
    seconds: float
    since: float
    done: simpy.Event


class Cores:
    """Cores with a run queue each, of threads that run for a tick in turn.

    Args:
        switch: CPU seconds more of a thread that has waited for a core which another process used.

    Attributes:
        busy: CPU seconds by thread.
    """

    def __init__(self, env: simpy.Environment, number: int, switch: float = 0.0) -> None:
        self._env, self._switch, self._chance = env, switch, random.Random(0)
        self._queues = [simpy.Store(env) for _ in range(number)]
        self._current: list[Thread | None] = [None] * number
        self._idle = [True] * number
        self.busy: defaultdict[Thread, float] = defaultdict(float)
        for core in range(number):
            env.process(self._core(core))
        env.process(self._balance())

    def run(self, thread: Thread, seconds: float, waker: Thread | None = None) -> simpy.Event:
        """Return the event that comes when a thread, which another one has woken, has had its seconds."""
        seconds *= self._chance.uniform(1 - VARIES, 1 + VARIES)
        work = _Work(thread, seconds, self._env.now, self._env.event())
        if self._current[thread.core] is thread:  # it did not wait, and goes on
            self._queues[thread.core].items.insert(0, work)
        else:
            self._queues[self._choose(thread, waker)].put(work)
        return work.done

    def _choose(self, thread: Thread, waker: Thread | None) -> int:
        """An idle core, best its last one; else its waker's, if none waits for that; else its last one."""
        idle = [core for core, queue in enumerate(self._queues) if self._idle[core] and not queue.items]
        if idle:
            return thread.core if thread.core in idle else idle[0]
        return waker.core if waker and not self._queues[waker.core].items else thread.core

    def _balance(self) -> Steps:
        while True:
            yield self._env.timeout(TICK)
            sizes = [len(q.items) + (not idle) for q, idle in zip(self._queues, self._idle, strict=True)]
            if max(sizes) >= min(sizes) + 2:
                work = self._queues[sizes.index(max(sizes))].items.pop(0)
                self._queues[sizes.index(min(sizes))].put(work)

    def _core(self, core: int) -> Steps:
        queue, last, left = self._queues[core], None, 0.0
        while True:
            self._idle[core] = True
            work = yield queue.get()
            self._idle[core], thread = False, work.thread
            if self._current[core] is not thread:
                left = TICK
            waited = self._env.now - work.since > 2 * SYSTEM_CALL
            if waited and thread.process is not last:
                work.seconds += self._switch
            self._current[core], thread.core, last = thread, core, thread.process
            while work.seconds > 0 and (left > 0 or not queue.items):
                part = min(work.seconds, left if left > 0 else TICK)
                yield self._env.timeout(part)
                work.seconds, left = work.seconds - part, left - part
                self.busy[thread] += part
            if work.seconds > 0:
                queue.put(work)
            else:
                work.done.succeed()
                self._idle[core] = True
                yield self._env.timeout(SYSTEM_CALL)
            if left <= 0 or not queue.items or queue.items[0].thread is not thread:
                self._current[core] = None


class _Server:
    """A server with one topic, whose events are there from the beginning: `unread` has nobody asked for.

    Attributes:
        finished: Comes when all are completed.
        ends: When how many were.
    """

    def __init__(self, env: simpy.Environment, cores: Cores, events: int) -> None:
        self.env, self.cores, self.unread, self._left = env, cores, events, events
        self.finished, self.ends = env.event(), list[tuple[float, int]]()
        self.thread, self._turn = Thread(self), simpy.Resource(env)

    def run(self, seconds: float) -> Steps:
        with self._turn.request() as turn:
            yield turn
            yield self.cores.run(self.thread, seconds)

    def complete(self, events: int) -> None:
        self.ends.append((self.env.now, events))
        self._left -= events
        if not self._left:
            self.finished.succeed()


class _Worker:
    """One worker: its stages, each a process of the simulation."""

    def __init__(self, server: _Server, costs: Costs, most: int) -> None:
        self._server, self._costs, self._most = server, costs, most
        self._env, self._gil = server.env, simpy.Resource(server.env)
        self.loop, self.handler = Thread(self), Thread(self)
        self._read_ahead, self._received, self._called = (simpy.Store(self._env, 1) for _ in range(3))
        for stage in (self._read, self._receive, self._call, self._complete):
            self._env.process(stage())

    def _python(self, thread: Thread, seconds: float, waker: Thread, lost: float = 0.0) -> Steps:
        with self._gil.request() as turn:
            yield turn
            yield self._server.cores.run(thread, seconds, waker)
            yield self._env.timeout(lost)

    def _read(self) -> Steps:
        server, costs = self._server, self._costs
        while events := min(self._most, server.unread):
            server.unread -= events
            parts, arrived = math.ceil(events * costs.reply / PART), simpy.Store(self._env)
            self._env.process(self._write(costs.server.of(events) * costs.read / parts, parts, arrived))
            for _ in range(parts):
                yield arrived.get()
                yield from self._python(self.loop, costs.loop.of(events) / 4 / parts, server.thread)
            yield self._read_ahead.put(events)

    def _write(self, seconds: float, parts: int, arrived: simpy.Store) -> Steps:
        for part in range(parts):
            yield from self._server.run(seconds)
            yield arrived.put(part)

    def _receive(self) -> Steps:
        while True:
            events = yield self._read_ahead.get()
            yield from self._python(self.loop, self._costs.loop.of(events) / 4, self._server.thread)
            yield self._received.put(events)

    def _call(self) -> Steps:
        costs = self._costs
        while True:
            events = yield self._received.get()
            yield from self._python(self.handler, costs.call.of(events), self.loop, costs.lost.of(events))
            yield from self._python(self.loop, costs.loop.of(events) / 4, self.handler)
            yield self._called.put(events)

    def _complete(self) -> Steps:
        server, costs = self._server, self._costs
        while True:
            events = yield self._called.get()
            yield from server.run(costs.server.of(events) * (1 - costs.read))
            yield from self._python(self.loop, costs.loop.of(events) / 4, server.thread)
            server.complete(events)


class Outcome(msgspec.Struct, frozen=True):
    """What a run shows: events a second, CPU seconds of an event, and the length in seconds."""

    completed: int
    rate: float
    cpu: float
    seconds: float


def simulate(
    costs: Costs,
    workers: int,
    servers: int = 1,
    most: int = 1024,
    *,
    batches: int = 100,
    cores: int = 2,
    switch: float = 0.0,
    others: Sequence[tuple[float, float]] = (),
) -> Outcome:
    """Run a stream until all of its backlog is completed: so many batches of `most` events for each worker.

    Workers and events are spread over the servers, each with one topic. All share the cores, and so do other
    processes, which run for so many seconds and then pause for so many. For `switch` see `Cores`.
    """
    env, events, total = simpy.Environment(), batches * most, batches * most * workers
    machine = Cores(env, cores, switch)
    nodes = [_Server(env, machine, events * len(range(n, workers, servers))) for n in range(servers)]
    started = [_Worker(nodes[number % servers], costs, most) for number in range(workers)]

    def other(seconds: float, pause: float) -> Steps:
        thread = Thread(object())
        while True:
            yield machine.run(thread, seconds)
            yield env.timeout(pause)

    for seconds, pause in others:
        env.process(other(seconds, pause))
    env.run(env.all_of([node.finished for node in nodes]))

    ends = sorted(end for node in nodes for end in node.ends)
    done, seconds = list(accumulate(events for _, events in ends)), ends[-1][0]
    first, last = (bisect_left(done, total * part) for part in (0.1, 0.9))  # as it is measured
    middle = ends[last][0] - ends[first][0]
    ours = [thread for worker in started for thread in (worker.loop, worker.handler)]
    cpu = sum(machine.busy[thread] for thread in (*ours, *(node.thread for node in nodes)))
    rate = (done[last] - done[first]) / middle if middle else total / seconds
    return Outcome(done[-1], rate, cpu / total, seconds)
