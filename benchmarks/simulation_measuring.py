"""What the simulation is fitted to and compared with: workers and servers, measured on this machine.

CPU time is the kernel's count for each thread: a worker's main thread has the event loop, another one the
handler. All figures count between the first and the last tenth of the predictions.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import redis
import skops.io
from redis.crc import key_slot

from backends.process import free_ports, is_free
from backends.redis.server import RedisServer
from benchmarks.measuring import no_op, rides
from benchmarks.scaling import busy, processes
from benchmarks.scaling_app import durations
from eventml.backends import redis as backend
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOOK: Final = 0.02  # seconds
SLOTS: Final = 16_384
CLUSTER_BUS: Final = 10_000  # nodes talk to each other on the port that is so much higher
FIRST_EPHEMERAL: Final = 32_768
SETTINGS: Final = {"auto-aof-rewrite-percentage": "0"}
"""A backlog makes Redis rewrite its file, again and again, in a process that takes a core from the others."""
COMMAND: Final = ("eventml", "run", "benchmarks.scaling_app:bus", "--operations", "off", "--workers")
SIZES: Final = [1, 64, 128, 256, 512, 1024]


class Case(msgspec.Struct, frozen=True):
    """What is measured: a forest or no model, with so many workers, servers and events in a batch."""

    forest: bool
    workers: int = 1
    nodes: int = 1
    batch: int = 1024

    def __str__(self) -> str:
        model = "forest" if self.forest else "no model"
        nodes = ", three nodes" if self.nodes > 1 else ""
        batch = "" if self.batch == 1024 else f", batches of {self.batch}"
        return f"{model}, {self.workers} worker{'s' * (self.workers > 1)}{nodes}{batch}"


class Sample(msgspec.Struct, frozen=True):
    """One run. CPU seconds and bytes are those of an event.

    Attributes:
        rate: Events a second.
        loop: CPU seconds of all event loops, `call` of all handlers, `server` of all servers.
        publish: CPU seconds of the servers when the event was published.
        read: The part of the server's time that is reading.
        others: Busy cores of the machine that neither workers nor servers kept busy.
        start: Seconds from the start of the command to the handler's first batch.
        received, sent: Bytes that the servers received and sent, from publishing to completion.
        memory: Bytes of the servers for an event and its prediction; `log` in their append-only files.
    """

    rate: float
    loop: float
    call: float
    server: float
    publish: float
    read: float
    others: float
    start: float
    received: float
    sent: float
    memory: float
    log: float

    @property
    def cpu(self) -> float:
        return self.loop + self.call + self.server


def thread_seconds(*pids: int) -> dict[int, float]:
    """CPU seconds of each thread of processes."""
    tasks = (task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir())
    return {int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks}


CROWD: Final = """
from collections import deque
import msgspec
from benchmarks.measuring import RideStarted, rides
decode, held = msgspec.json.Decoder(RideStarted).decode, deque(maxlen=4)
values = list(map(msgspec.json.encode, rides(1_024)))
while True:
    held.append(list(map(decode, values)))
    list(map(msgspec.json.encode, held[0]))
"""


@contextmanager
def crowd() -> Iterator[None]:
    """Keep all cores busy with processes that fill their caches as a worker does: with batches of events.

    Each has a session of its own, as workers and servers have: Linux shares cores evenly among sessions.
    """
    command = [sys.executable, "-c", CROWD]
    cores = os.sched_getaffinity(0)
    started = [subprocess.Popen(command, start_new_session=True) for _ in cores]  # noqa: S603 - our interpreter
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextmanager
def servers(nodes: int, *, cluster: bool) -> Iterator[list[RedisServer]]:
    """Start a server, or a cluster of masters that share the slots."""
    if not cluster:
        with RedisServer(settings=SETTINGS) as server:
            yield [server]
        return
    ports = (p for p in free_ports() if p < FIRST_EPHEMERAL - CLUSTER_BUS and is_free(p + CLUSTER_BUS))
    settings = {**SETTINGS, "cluster-enabled": "yes", "cluster-config-file": "nodes.conf"}
    with ExitStack() as stack:
        enter = stack.enter_context
        started = [enter(RedisServer(port=next(ports), settings=settings)) for _ in range(nodes)]
        clients = [enter(redis.Redis(port=server.port)) for server in started]
        size = -(-SLOTS // nodes)
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER ADDSLOTS", *range(number * size, min((number + 1) * size, SLOTS)))
            client.execute_command("CLUSTER MEET", "127.0.0.1", started[0].port)
        deadline = time.monotonic() + 30
        for client in clients:
            while (info := client.execute_command("CLUSTER INFO"))["cluster_state"] != "ok" or int(
                info["cluster_known_nodes"]
            ) < nodes:
                assert time.monotonic() < deadline, "the cluster does not form"
                time.sleep(LOOK)
        yield started


def _names(nodes: int) -> list[str]:
    """Names of topics, the n-th one on the n-th node."""
    size, names = -(-SLOTS // nodes), [f"{{rides-{number}}}" for number in range(100)]
    return [next(n for n in names if key_slot(n.encode()) // size == node) for node in range(nodes)]


def _publish(url: str, topics: Sequence[str], events: int) -> None:
    """Publish so many events to each topic, in eventml's format."""

    async def main() -> None:
        values = [(ride.ride_id, msgspec.json.encode(ride)) for ride in rides(1_000)]
        headers = {"ce_specversion": "1.0", "ce_source": "benchmark", "content-type": "application/json"}
        async with backend.open(url, backend.Settings(cluster="cluster" in url)) as broker:
            for topic in topics:
                named = {**headers, "ce_type": topic}
                records = [Record(topic, value, None, name, named) for name, value in values]
                for _ in range(events // 1_000):
                    await broker.publish(records)

    asyncio.run(main())


def measure(case: Case, model: Path, per_worker: int, *, cluster: bool = False) -> Sample:
    """Measure a backlog of so many events for each worker. Several nodes are always a cluster."""
    names, events, cluster = _names(case.nodes), per_worker * case.workers, cluster or case.nodes > 1
    with ExitStack() as stack:
        started = stack.enter_context(servers(case.nodes, cluster=cluster))
        clients = [stack.enter_context(redis.Redis(port=server.port)) for server in started]
        pids = [server.process.pid for server in started]

        def info(section: str, field: str) -> float:
            return sum(float(client.info(section)[field]) for client in clients)

        empty, before = info("memory", "used_memory"), sum(thread_seconds(*pids).values())
        url = f"redis://{','.join(f'127.0.0.1:{server.port}' for server in started)}"
        url += "?cluster=true" if cluster else ""
        _publish(url, [f"{name}.rides" for name in names], events // len(names))
        publish = sum(thread_seconds(*pids).values()) - before
        env = {
            "EVENTML_BACKEND": url,
            "SCALING_MODEL": str(model) if case.forest else "",
            "SCALING_BATCH": str(case.batch),
        }
        command = (*COMMAND, str(case.workers // len(names)))
        commands = [(command, {**env, "SCALING_NAME": name}) for name in names]
        with processes(commands, case.workers) as (workers, start):

            def until(done: float) -> dict[str, float]:
                """Counters, once so many predictions are there."""
                deadline = time.monotonic() + 300
                while True:
                    found = sum(client.xlen(f"{n}.minutes") for client, n in zip(clients, names, strict=True))
                    if found >= done:
                        break
                    assert time.monotonic() < deadline, "the predictions do not come"
                    time.sleep(LOOK)
                threads = thread_seconds(*workers)
                loop = sum(threads[pid] for pid in workers)
                return {
                    "seconds": time.perf_counter(),
                    "events": found,
                    "loop": loop,
                    "call": sum(threads.values()) - loop,
                    "server": sum(thread_seconds(*pids).values()),
                    "busy": busy(),
                }

            first, last = until(events * 0.1), until(events * 0.9)
            until(events)
        passed = {name: last[name] - first[name] for name in first}
        assert passed["events"], "too few events: the first look found nine tenths of them"
        read, complete = (
            sum(float(client.info("commandstats")[f"cmdstat_{name}"]["usec"]) for client in clients)
            for name in ("xreadgroup", "evalsha")
        )
        parts = {name: passed[name] / passed["events"] for name in ("loop", "call", "server")}
        ours = sum(passed[name] for name in parts)
        return Sample(
            rate=passed["events"] / passed["seconds"],
            **parts,
            publish=publish / events,
            read=read / (read + complete),
            others=(passed["busy"] - ours) / passed["seconds"],
            start=start,
            received=info("stats", "total_net_input_bytes") / events,
            sent=info("stats", "total_net_output_bytes") / events,
            memory=(info("memory", "used_memory") - empty) / events,
            log=info("persistence", "aof_current_size") / events,
        )


def measure_call(model: Path | None, seconds: float) -> list[float]:
    """CPU seconds of the handler alone for a batch of each of `SIZES`, called for so many seconds each."""
    forest: Any = skops.io.load(model, trusted=skops.io.get_untrusted_types(file=model)) if model else None
    if forest:
        forest.n_jobs = None
    events, found = rides(4 * SIZES[-1]), []
    for size in SIZES:
        begun, calls, end = time.thread_time(), 0, time.monotonic() + seconds
        for start in count(0, size):
            batch = events[start % len(events) :][:size]
            durations(batch, forest) if forest else no_op(batch)
            calls += 1
            if time.monotonic() > end:
                break
        found.append((time.thread_time() - begun) / calls)
    return found
