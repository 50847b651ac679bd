"""Faults of workers, networks and brokers. Each is applied, lasts for a while, and is undone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from confluent_kafka import admin

from backends.process import StartError
from tests.kafka import secure
from tests.redis.proxy import Proxy

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from backends.kafka.cluster import KafkaCluster
    from tests.deploy.service import Service

PASSWORD = "of-the-soak"  # noqa: S105 - of servers that live for minutes, on loopback


class Fault(NamedTuple):
    """Something that fails.

    Attributes:
        name: Kind of the fault, for the table of results.
        apply: Begins it.
        undo: Ends it. Also called if `apply` failed.
        seconds: Shortest and longest time between the two.
        workers: How many workers may repeat what they have in flight.
        settle: Waits, after its end, until another fault may begin.
    """

    name: str
    apply: Callable[[], object]
    undo: Callable[[], object] = lambda: None
    seconds: tuple[float, float] = (0.0, 0.0)
    workers: int = 3
    settle: Callable[[], object] = lambda: None


class Step(NamedTuple):
    """A fault of a plan, after a pause, and how long it lasts, in seconds."""

    pause: float
    fault: Fault
    lasts: float


def plan(faults: Sequence[Fault], chance: random.Random, pauses: tuple[float, float]) -> Iterator[Step]:
    """Yield faults without end: every kind once, in a random order, then every kind again."""
    while True:
        for fault in chance.sample(faults, len(faults)):
            yield Step(chance.uniform(*pauses), fault, chance.uniform(*fault.seconds))


class Network:
    """Proxies in front of ports of this machine, in a thread with an event loop of its own."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._proxies = [Proxy("127.0.0.1", port) for port in ports]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for proxy in self._proxies:
            asyncio.run_coroutine_threadsafe(proxy.start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._proxies:
            asyncio.run_coroutine_threadsafe(proxy.kill(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def ports(self) -> list[int]:
        return [int(proxy.url.rpartition(":")[2].partition("/")[0]) for proxy in self._proxies]

    def each(self, change: Callable[[Proxy], object]) -> None:
        for proxy in self._proxies:
            self._loop.call_soon_threadsafe(change, proxy)

    def faults(self) -> list[Fault]:
        def slow(speed: float | None) -> Callable[[], None]:
            return lambda: self.each(lambda proxy: setattr(proxy, "bytes_per_second", speed))

        def partition() -> None:
            self.each(Proxy.hold)

        def heal() -> None:
            self.each(Proxy.flow)

        return [
            Fault("all connections reset", lambda: self.each(Proxy.cut)),
            Fault("network partition", partition, heal, (1, 8)),
            Fault("slow link, 50 kB/s", slow(50_000), slow(None), (2, 6)),
        ]


class Workers:
    """The faults of workers. The eldest is never killed: its memory is watched.

    Args:
        service: The supervisor.
        chance: Chooses the worker.
        stopped: Shortest and longest time that a worker is stopped, in seconds.
    """

    def __init__(self, service: Service, chance: random.Random, stopped: tuple[float, float]) -> None:
        self._service = service
        self._chance = chance
        self.eldest = min(service.workers, key=_started)
        self._victim = 0
        self.faults = [
            Fault("SIGKILL of a worker", lambda: self._send(signal.SIGKILL), workers=1),
            Fault("SIGTERM of a worker", lambda: self._send(signal.SIGTERM), workers=1),
            Fault("SIGSTOP of a worker", lambda: self._send(signal.SIGSTOP), self._go_on, stopped, workers=1),
        ]

    def _send(self, number: signal.Signals) -> None:
        others = [pid for pid in self._service.workers if pid != self.eldest]
        self._victim = self._chance.choice(others) if others else 0
        if self._victim:
            with suppress(ProcessLookupError):
                os.kill(self._victim, number)

    def _go_on(self) -> None:
        if self._victim:
            with suppress(ProcessLookupError):
                os.kill(self._victim, signal.SIGCONT)


def _started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


LIBFAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


class Clock:
    """The clock of the workers, by libfaketime; where it is not installed there are no faults of it."""

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "offset"
        self._set(0)
        self.env = {}
        if LIBFAKETIME.exists():
            self.env = {
                "LD_PRELOAD": str(LIBFAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self._offset),
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_CACHE_DURATION": "1",
            }

    def faults(self) -> list[Fault]:
        if not self.env:
            print("no clock jumps: libfaketime is not installed")  # noqa: T201 - the reason
            return []
        return [
            Fault("clock half an hour ahead", lambda: self._set(1800), lambda: self._set(0), (2, 5)),
            Fault("clock half an hour back", lambda: self._set(-1800), lambda: self._set(0), (2, 5)),
        ]

    def _set(self, seconds: int) -> None:
        new = self._offset.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._offset)


class Disk:
    """A small disk in memory, or None where mounting is not possible."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def mounted(folder: Path, size: str = "512m") -> Iterator[Disk | None]:
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "soak", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        print(f"no full disk: {done.stderr.strip()}")  # noqa: T201 - the reason
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S603, S607 - ours


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a condition of a broker is true."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(Exception):
            if condition():
                return
        assert time.monotonic() < deadline, "the broker did not recover"
        time.sleep(0.1)


class Kafka:
    """Faults of a cluster of three nodes."""

    def __init__(self, cluster: KafkaCluster, network: Network, disk: Disk | None) -> None:
        self._cluster = cluster
        self._network = network
        self._disk = disk
        self._client = admin.AdminClient({"bootstrap.servers": cluster.bootstrap})
        self.partitions = 8

    def faults(self, topic: str, chance: random.Random) -> list[Fault]:
        nodes = self._cluster.nodes
        victim = [nodes[0]]

        def choose(do: Callable[[Any], object]) -> Callable[[], None]:
            def apply() -> None:
                victim[0] = chance.choice(nodes)
                do(victim[0])

            return apply

        def right(allowed: bool) -> Callable[[], None]:
            return lambda: secure.permit(self._cluster.bootstrap, topic, allowed=allowed)

        faults = [
            Fault("one of three nodes killed", choose(lambda node: node.kill()), self._start, (1, 12)),
            Fault("one of three nodes stopped", choose(lambda node: node.stop()), self._start, (1, 6)),
            Fault(
                "one of three nodes frozen",
                choose(lambda node: node.process.send(signal.SIGSTOP)),
                lambda: victim[0].process.send(signal.SIGCONT),
                (1, 12),
            ),
            Fault("all nodes killed", self._cluster.kill, self._start, (0.5, 3)),
            Fault("password changed", self._password("another"), self._password(PASSWORD), (1, 6)),
            Fault("right to the topic revoked", right(False), right(True), (1, 6)),
            Fault("topic grown", lambda: self._grow(topic)),
        ]
        return [*faults, Fault("disk full", self._fill, self._empty, (3, 6))] if self._disk else faults

    def add_user(self) -> None:
        self._password(PASSWORD)()

    def _start(self) -> None:
        for node in self._cluster.nodes:
            if node.running:
                node.process.send(signal.SIGCONT)
        for _ in range(3):
            with suppress(StartError):
                self._cluster.start()
                return
        self._cluster.start()

    def _password(self, password: str) -> Callable[[], None]:
        def change() -> None:
            secure.add_scram_user(self._cluster.bootstrap, password)
            self._network.each(Proxy.cut)

        return change

    def _grow(self, topic: str) -> None:
        if self.partitions >= 12:
            return
        self.partitions += 1
        for done in self._client.create_partitions([admin.NewPartitions(topic, self.partitions)]).values():
            done.result(30)

    def _fill(self) -> None:
        assert self._disk is not None
        self._disk.fill()

    def _empty(self) -> None:
        assert self._disk is not None
        self._disk.empty()
        self._cluster.nodes[0].kill()  # a node whose disk failed has ended, or does not use it any more
        self._start()
