"""Latencies of events while the model of three workers is replaced, on Redis and on Kafka.

    python -m benchmarks.swaps [--swaps N] [--seconds S] [--rate N] [--model linear] [--only redis] [--quick]

Latencies without swaps, and while the model's file is replaced N times in S seconds, in turn: two rounds of
half the time each. A latency is from before an event is published until its prediction has been read.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import skops.io
from rich.console import Console
from rich.table import Table

import eventml
from backends.kafka.cluster import KafkaCluster
from backends.redis.server import RedisServer
from benchmarks.measuring import machine, rides
from benchmarks.redis_cases import SOURCE, TARGET
from benchmarks.web import ONE_THREAD, ROOT
from benchmarks.web_models import train
from eventml.backends.base import CreatesTopics, NewTopic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORKERS = 3
LIMIT = 60.0  # seconds, for the workers to start and for the last predictions


@contextmanager
def workers(url: str, model: Path) -> Iterator[None]:
    """Run three workers that look for a new model each half second."""
    command = [sys.executable, "-m", "eventml", "run", "benchmarks.models_app:bus", "--operations", "off"]
    environment = {**os.environ, **ONE_THREAD, "EVENTML_BACKEND": url, "MODELS_MODEL": str(model)}
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*command, "--workers", str(WORKERS)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def latencies(
    url: str, rate: float, seconds: float, swap: Callable[[], None], swaps: int
) -> list[float]:
    """The latency of each event in seconds, while the model is replaced this many times."""
    bus = eventml.Bus("load", backend=url)
    sent: dict[str, float] = {}
    took: list[float] = []
    events = [(f"{time.time_ns()}-{number}", ride) for number, ride in enumerate(rides(int(rate * seconds)))]

    async def read() -> None:
        async for delivery in bus.read(TARGET, start="latest"):
            event = delivery.record.id.partition("/")[0]
            if begun := sent.pop(event, 0.0):
                took.append(time.perf_counter() - begun)
            if len(took) == len(events):
                return

    async def replace() -> None:
        for _ in range(swaps):
            await asyncio.sleep(seconds / swaps)
            await asyncio.to_thread(swap)

    async with bus.open(), asyncio.TaskGroup() as tasks, asyncio.timeout(seconds + LIMIT):
        reading = tasks.create_task(read())
        await asyncio.sleep(1.0)  # so that it has subscribed
        replacing = tasks.create_task(replace())
        start = time.perf_counter()
        for number, (name, ride) in enumerate(events):
            await asyncio.sleep(max(start + number / rate - time.perf_counter(), 0.0))
            sent[name] = time.perf_counter()
            tasks.create_task(bus.publish(SOURCE, ride, id=name, key=name))
        await reading
        replacing.cancel()
    return took


def measure(url: str, folder: Path, chosen: argparse.Namespace) -> dict[str, list[float]]:
    path = folder / "model.skops"
    model = train(folder)[chosen.model]
    versions = cycle([skops.io.dumps(model), skops.io.dumps(model)])  # never the same bytes

    def swap() -> None:
        new = path.with_suffix(".new")
        new.write_bytes(next(versions))
        new.replace(path)

    swap()
    took: dict[str, list[float]] = {"quiet": [], "swaps": []}
    run = partial(latencies, url, chosen.rate)
    with workers(url, path):
        asyncio.run(run(1.0, swap, 0))  # waits for the workers, ...
        asyncio.run(run(min(chosen.seconds / 4, 5.0), swap, 0))  # ... and warms up
        for turn in range(2):
            for case, swaps in (("quiet", 0), ("swaps", (chosen.swaps + turn) // 2)):
                took[case] += asyncio.run(run(chosen.seconds / 2, swap, swaps))
    return took


async def create_topics(url: str) -> None:
    bus = eventml.Bus("load", backend=url)
    async with bus.open():
        assert isinstance(bus.backend, CreatesTopics)
        await bus.backend.create_topics(
            [NewTopic(name=name, partitions=WORKERS) for name in (SOURCE, TARGET)]
        )


def report(name: str, took: dict[str, list[float]], chosen: argparse.Namespace) -> None:
    title = (
        f"{name}: {chosen.swaps} swaps in {chosen.seconds:g} s, {WORKERS} workers, {chosen.rate:g} events/s"
    )
    table = Table(title=title, title_justify="left")
    for column in ("case", "p50 ms", "p99 ms", "max ms", "ratio of p99 to quiet"):
        table.add_column(column, justify="left" if column == "case" else "right")
    base = statistics.quantiles(took["quiet"], n=100)[98]
    for case, seconds in took.items():
        found = statistics.quantiles(seconds, n=100)
        figures = (1e3 * found[49], 1e3 * found[98], 1e3 * max(seconds))
        table.add_row(case, *(f"{one:.2f}" for one in figures), f"{found[98] / base:.3g}")
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="linear", help="linear, boosting or forest")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="of latencies with swaps, and without")
    parser.add_argument("--rate", type=float, default=500.0, help="events a second")
    parser.add_argument("--only", choices=["redis", "kafka"])
    parser.add_argument("--quick", action="store_true", help="a Kafka broker that starts sooner")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    print(machine("scikit-learn", "aiokafka", "redis"))
    with TemporaryDirectory() as name:
        if chosen.only != "kafka":
            with RedisServer(settings={"appendonly": "no", "save": ""}) as server:
                report("Redis", measure(server.url, Path(name), chosen), chosen)
        if chosen.only != "redis":
            settings = {"group.initial.rebalance.delay.ms": "0"}
            with KafkaCluster(quick=chosen.quick, settings=settings) as cluster:
                url = f"kafka://{cluster.bootstrap}"
                asyncio.run(create_topics(url))
                report("Kafka", measure(url, Path(name), chosen), chosen)


if __name__ == "__main__":
    main()
