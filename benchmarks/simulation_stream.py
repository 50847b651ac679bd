"""A stream as a discrete-event simulation: workers and servers, and the cores that they share.

A worker reads, decodes, calls, encodes and completes batches as `docs/architecture.md` describes it; what it
does in Python holds its GIL. A server does one thing at a time. Cores are shared as Linux shares them: each
has a run queue, and a thread that follows one of another process finds cold caches.
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
    from collections.abc import Generator

    Steps = Generator[simpy.Event, Any, None]

TICK: Final = 4e-3  # seconds: Linux at 250 Hz lets the next thread run, and balances the queues, at a tick
HOT: Final = 0.5e-3  # a thread that has run since is not moved to another core: sched_migration_cost
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
    read: float = 0.3
    reply: float = 460.0


class Machine(msgspec.Struct, frozen=True):
    """What all processes share.

    Attributes:
        switch: CPU seconds at most until a thread that follows those of other processes has its caches again.
        crowd: Other processes that never wait.
    """

    cores: int
    switch: float = 0.0
    crowd: int = 0


@dataclass(eq=False)
class Thread:
    """A thread of a process, the core that it ran on, and when it did so last."""

    process: object
    core: int = 0
    ran: float = -math.inf


@dataclass(eq=False)
class _Work:
    thread: Thread
    seconds: float
    done: simpy.Event
    since: float


class Cores:
    """Cores with a run queue each, of threads that run for a tick in turn.

    Attributes:
        busy: CPU seconds by thread.
    """

    def __init__(self, env: simpy.Environment, machine: Machine) -> None:
        self._env, self._switch, self._chance = env, machine.switch, random.Random(0)
        self._queues = [simpy.Store(env) for _ in range(machine.cores)]
        self._current: list[Thread | None] = [None] * machine.cores
        self._idle = [True] * machine.cores
        self.busy: defaultdict[Thread, float] = defaultdict(float)
        for number in range(machine.cores):
            env.process(self._core(number))
        env.process(self._balance())

    def run(self, thread: Thread, seconds: float, waker: Thread | None = None) -> simpy.Event:
        """Return the event that comes when a thread, which another one has woken, has had its seconds."""
        seconds *= self._chance.uniform(1 - VARIES, 1 + VARIES)
        work = _Work(thread, seconds, self._env.event(), self._env.now)
        if self._current[thread.core] is thread:  # it did not wait, and goes on
            self._queues[thread.core].items.insert(0, work)
        else:
            self._queues[self._choose(thread, waker)].put(work)
        return work.done

    def _choose(self, thread: Thread, waker: Thread | None) -> int:
        """An idle core, best its last one; else its waker's, if none waits for that; else its last one."""
        idle = [n for n, queue in enumerate(self._queues) if self._idle[n] and not queue.items]
        if idle:
            return thread.core if thread.core in idle else idle[0]
        return waker.core if waker and not self._queues[waker.core].items else thread.core

    def _balance(self) -> Steps:
        """Move one that waits for the fullest core to the emptiest, at each tick."""
        while True:
            yield self._env.timeout(TICK)
            sizes = [len(queue.items) + (not idle) for queue, idle in zip(self._queues, self._idle, strict=True)]
            if max(sizes) >= min(sizes) + 2:
                waiting = self._queues[sizes.index(max(sizes))].items
                if cold := [work for work in waiting if self._env.now - work.thread.ran >= HOT]:
                    waiting.remove(cold[0])
                    self._queues[sizes.index(min(sizes))].put(cold[0])

    def _core(self, number: int) -> Steps:
        queue, left, used = self._queues[number], 0.0, 0.0
        gone = defaultdict[object, float](lambda: -math.inf)  # `used` when a process gave up this core
        while True:
            self._idle[number] = True
            work = yield queue.get()
            self._idle[number], thread = False, work.thread
            if self._current[number] is not thread:
                left = TICK
            process, thread.core, self._current[number] = thread.process, number, thread
            # What others have loaded into the caches in some time, it has lost within that time.
            if self._env.now > work.since + 2 * SYSTEM_CALL:
                work.seconds += min(self._switch, used - gone[process])
            while work.seconds > 0 and (left > 0 or not queue.items):
                left = left if left > 0 else TICK
                part = min(work.seconds, left)
                yield self._env.timeout(part)
                work.seconds, left, used, thread.ran = work.seconds - part, left - part, used + part, self._env.now
                self.busy[thread] += part
            gone[process] = used
            if work.seconds > 0:
                queue.put(work)
            else:
                work.done.succeed()
                self._idle[number] = True
                yield self._env.timeout(SYSTEM_CALL)
            if not (left > 0 and queue.items and queue.items[0].thread is thread):
                self._current[number] = None


class _Server:
    """A server with one topic, whose events are there from the beginning.

    Attributes:
        unread: Events that no worker has asked for.
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
    """What a run of the simulation shows.

    Attributes:
        rate: Events a second, between the first and the last tenth of the completed ones, as it is measured.
        loop: CPU seconds of an event in all event loops, `call` in all handlers, `server` in all servers.
        seconds: Length of the run.
    """

    completed: int
    rate: float
    loop: float
    call: float
    server: float
    seconds: float

    @property
    def cpu(self) -> float:
        return self.loop + self.call + self.server


def simulate(
    costs: Costs, machine: Machine, *, workers: int, servers: int = 1, events: int = 60_000, most: int = 1024
) -> Outcome:
    """Run a stream until all events of its backlog are completed: so many for each worker.

    Args:
        workers: They are spread over the servers, and so are the events.
        servers: Each with one topic.
        most: Events in a batch.
    """
    env, total = simpy.Environment(), events * workers
    cores = Cores(env, machine)
    nodes = [_Server(env, cores, events * len(range(n, workers, servers))) for n in range(servers)]
    started = [_Worker(nodes[number % servers], costs, most) for number in range(workers)]

    def busy() -> Steps:
        thread = Thread(object())
        while True:
            yield cores.run(thread, TICK)

    for _ in range(machine.crowd):
        env.process(busy())
    env.run(env.all_of([node.finished for node in nodes]))

    ends = sorted(end for node in nodes for end in node.ends)
    done, seconds = list(accumulate(events for _, events in ends)), ends[-1][0]
    first, last = (bisect_left(done, total * part) for part in (0.1, 0.9))
    middle = ends[last][0] - ends[first][0]
    return Outcome(
        completed=done[-1],
        rate=(done[last] - done[first]) / middle if middle else total / seconds,
        loop=sum(cores.busy[worker.loop] for worker in started) / total,
        call=sum(cores.busy[worker.handler] for worker in started) / total,
        server=sum(cores.busy[node.thread] for node in nodes) / total,
        seconds=seconds,
    )
