"""What the simulation is fitted to and compared with: workers and servers, measured on this machine.

CPU time is the kernel's count for each thread: a worker's main thread has the event loop, another one the
handler. All figures count between the first and the last tenth of the predictions.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import redis
from redis.crc import key_slot

from backends.process import free_ports, is_free
from backends.redis.server import RedisServer
from benchmarks.measuring import rides
from benchmarks.scaling import busy, processes
from eventml.backends import redis as backend
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LOOK: Final = 0.02  # seconds
SLOTS: Final = 16_384
CLUSTER_BUS: Final = 10_000  # nodes talk to each other on the port that is so much higher
FIRST_EPHEMERAL: Final = 32_768
COMMAND: Final = ("eventml", "run", "benchmarks.scaling_app:bus", "--operations", "off", "--workers")


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
    """One run. CPU seconds are those of an event.

    Attributes:
        rate: Events a second.
        loop: CPU seconds of all event loops, `call` of all handlers, `server` of all servers.
        publish: CPU seconds of the servers when the event was published.
        read: The part of the server's time that is reading.
        cores: Busy cores of the machine, and `others` those that neither workers nor servers kept busy.
        start: Seconds from the start of the command to the handler's first batch.
        received, sent: Bytes that the servers received and sent, from publishing to completion.
        memory: Bytes of the servers for an event and its prediction.
    """

    rate: float
    loop: float
    call: float
    server: float
    publish: float
    read: float
    cores: float
    others: float
    start: float
    received: float
    sent: float
    memory: float


class _Mark(msgspec.Struct, frozen=True):
    at: float
    done: int
    loop: float
    call: float
    server: float
    cores: float


def thread_seconds(pid: int) -> dict[int, float]:
    """CPU seconds of each thread of a process."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def _mark(
    clients: Sequence[redis.Redis], names: Sequence[str], workers: list[int], servers: list[int]
) -> _Mark:
    done = sum(client.xlen(f"{name}.minutes") for client, name in zip(clients, names, strict=True))
    threads = {pid: thread_seconds(pid) for pid in workers}
    loop = sum(times[pid] for pid, times in threads.items())
    return _Mark(
        at=time.perf_counter(),
        done=done,
        loop=loop,
        call=sum(sum(times.values()) for times in threads.values()) - loop,
        server=sum(sum(thread_seconds(pid).values()) for pid in servers),
        cores=busy(),
    )


@contextmanager
def crowd(cores: int) -> Iterator[None]:
    """Keep so many cores busy with something else."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextmanager
def servers(nodes: int) -> Iterator[list[RedisServer]]:
    """Start a server, or a cluster of masters that share the slots."""
    if nodes == 1:
        with RedisServer() as server:
            yield [server]
        return
    ports = (
        port for port in free_ports() if port < FIRST_EPHEMERAL - CLUSTER_BUS and is_free(port + CLUSTER_BUS)
    )
    with ExitStack() as stack:
        settings = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf"}
        started = [
            stack.enter_context(RedisServer(port=next(ports), settings=settings)) for _ in range(nodes)
        ]
        clients = [stack.enter_context(redis.Redis(port=server.port)) for server in started]
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
    if nodes == 1:
        return ["scaling"]
    size = -(-SLOTS // nodes)
    return [
        next(n for i in count() if key_slot((n := f"{{rides-{i}}}").encode()) // size == node)
        for node in range(nodes)
    ]


def _publish(url: str, settings: Any, topics: Sequence[str], events: int) -> None:
    """Publish so many events to each topic, in eventml's format."""

    async def main() -> None:
        encode = msgspec.json.Encoder().encode
        values = [(ride.ride_id, encode(ride)) for ride in rides(1_000)]
        headers = {"ce_specversion": "1.0", "ce_source": "benchmark", "content-type": "application/json"}
        async with backend.open(url, settings) as broker:
            for topic in topics:
                named = {**headers, "ce_type": topic}
                records = [Record(topic, value, None, name, named) for name, value in values]
                for _ in range(events // 1_000):
                    await broker.publish(records)

    asyncio.run(main())


def measure(
    case: Case, started: Sequence[RedisServer], model: Path, per_worker: int, patience: float
) -> Sample:
    """Measure a backlog of so many events for each worker, once the machine is idle. Empties the servers."""
    names, events = _names(case.nodes), per_worker * case.workers
    pids = [server.process.pid for server in started]
    with ExitStack() as stack:
        clients = [stack.enter_context(redis.Redis(port=server.port)) for server in started]
        for client in clients:
            client.flushall()
            client.config_resetstat()
        empty = sum(client.info("memory")["used_memory"] for client in clients)
        url = started[0].url
        if case.nodes > 1:
            url = f"redis://{','.join(f'127.0.0.1:{server.port}' for server in started)}?cluster=true"
        before = sum(sum(thread_seconds(pid).values()) for pid in pids)
        _publish(
            url,
            backend.Settings(cluster=case.nodes > 1),
            [f"{name}.rides" for name in names],
            events // len(names),
        )
        publish = sum(sum(thread_seconds(pid).values()) for pid in pids) - before
        env = {
            "EVENTML_BACKEND": url,
            "SCALING_MODEL": str(model) if case.forest else "",
            "SCALING_BATCH": str(case.batch),
        }
        command = (*COMMAND, str(case.workers // len(names)))
        commands = [(command, {**env, "SCALING_NAME": name}) for name in names]
        with processes(commands, case.workers, patience) as (workers, start):
            marks: list[_Mark] = []
            deadline = time.monotonic() + 300
            for part in (0.1, 0.9):
                while (mark := _mark(clients, names, workers, pids)).done < events * part:
                    assert time.monotonic() < deadline, "the predictions do not come"
                    time.sleep(LOOK)
                marks.append(mark)
            while _mark(clients, names, workers, pids).done < events:
                time.sleep(LOOK)
        first, last = marks
        done, seconds = last.done - first.done, last.at - first.at
        assert done, "too few events: the first look found nine tenths of them"
        ours = sum(getattr(last, name) - getattr(first, name) for name in ("loop", "call", "server"))
        statistics = [client.info("commandstats") for client in clients]
        traffic = [client.info("stats") for client in clients]
        memory = sum(client.info("memory")["used_memory"] for client in clients) - empty
    return Sample(
        rate=done / seconds,
        loop=(last.loop - first.loop) / done,
        call=(last.call - first.call) / done,
        server=(last.server - first.server) / done,
        publish=publish / events,
        read=_part(statistics),
        cores=(last.cores - first.cores) / seconds,
        others=(last.cores - first.cores - ours) / seconds,
        start=start,
        received=sum(int(t["total_net_input_bytes"]) for t in traffic) / events,
        sent=sum(int(t["total_net_output_bytes"]) for t in traffic) / events,
        memory=memory / events,
    )


def _part(statistics: Sequence[Mapping[str, Mapping[str, float]]]) -> float:
    """The part that reading has of a server's time for reading and completing."""
    read, complete = (
        sum(float(s[f"cmdstat_{name}"]["usec"]) for s in statistics) for name in ("xreadgroup", "evalsha")
    )
    return read / (read + complete)
