"""How 1, 2 and 4 workers share a forest's work on Redis, against bare loops that share it the same way.

    python -m benchmarks.scaling [--events N] [--rounds N] [--workers 1 2 4]

Each case reads a backlog of rides of 250 bytes, so many for each worker. All workers begin together,
and the time counts between the first and the last tenth of the predictions. The bare loop is a
process that reads batches with redis-py, predicts, and writes and acknowledges them in one pipeline.
Both have one thread a process and batches of 1,024 at most. Redis and what measures share the cores,
and "cores busy" says how many of them all had work for: where it is all there are, no more workers help.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import redis
import skops.io
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import RandomForestRegressor

from backends.redis.server import RedisServer
from benchmarks.measuring import TREES, interleave, machine, rides
from benchmarks.scaling_app import BATCH, features, wait_for_the_others

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[1]
SOURCE, TARGET, GROUP = "scaling.rides", "scaling.minutes", "scaling.minutes"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
LOOK = 0.005  # seconds


def train(path: Path) -> None:
    """Train a forest of 100 trees on the rides."""
    known = rides(5_000)
    target = np.array([r.trip_distance * 3 + r.pickup_location_id % 7 for r in known])
    forest = RandomForestRegressor(n_estimators=TREES, max_depth=12, random_state=0, n_jobs=4)
    skops.io.dump(forest.fit(features(known), target), path)


def fill(client: redis.Redis, events: int) -> None:
    """Empty the server, then publish the backlog."""
    client.flushall()
    encode = msgspec.json.Encoder().encode
    batch = [encode(ride) for ride in rides(1_000)]
    for _ in range(events // 1_000):
        pipe = client.pipeline(transaction=False)
        for value in batch:
            pipe.xadd(SOURCE, {"data": value})
        pipe.execute()
    client.xgroup_create(SOURCE, GROUP, id="0")


def busy() -> float:
    """Return the busy seconds of all cores together since the machine was started."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def rate(client: redis.Redis, events: int, cores: list[float]) -> float:
    """Return events a second between the first and last tenth of the predictions, and the busy cores."""
    marks: list[tuple[float, int, float]] = []
    low, high = events // 10, events * 9 // 10
    deadline = time.monotonic() + 300
    while len(marks) < 2:
        assert time.monotonic() < deadline, "the predictions do not come"
        done = client.xlen(TARGET)
        if done >= (low if not marks else high):
            marks.append((time.perf_counter(), done, busy()))
        time.sleep(LOOK)
    (begun, first, before), (ended, last, after) = marks
    cores.append((after - before) / (ended - begun))
    return (last - first) / (ended - begun)


@contextmanager
def processes(
    commands: Sequence[tuple[Sequence[str], Mapping[str, str]]], workers: int
) -> Iterator[tuple[list[int], float]]:
    """Start the workers by commands, each with its variables; inside the context all of them have just begun.

    Gives their process ids, and how many seconds the last one took to have its first batch.
    """
    gate = Path(tempfile.mkdtemp(prefix="scaling-"))
    begun = time.monotonic()
    started = [
        subprocess.Popen(  # noqa: S603 - our own commands
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD, "SCALING_GATE": str(gate), **env},
            stderr=subprocess.DEVNULL,
        )
        for command, env in commands
    ]
    try:
        while len(up := list(gate.glob("up-*"))) < workers:
            assert time.monotonic() < begun + 60, "the workers do not come up"
            time.sleep(LOOK)
        took = time.monotonic() - begun
        (gate / "go").touch()
        yield [int(path.name.removeprefix("up-")) for path in up], took
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()
        shutil.rmtree(gate)


def with_eventml(
    server: RedisServer, model: Path, per_worker: int, workers: int, cores: list[float]
) -> float:
    events = per_worker * workers
    with redis.Redis(port=server.port) as client:
        fill(client, events)
        command = (
            "eventml",
            "run",
            "benchmarks.scaling_app:bus",
            "--workers",
            str(workers),
            "--operations",
            "off",
        )
        env = {"EVENTML_BACKEND": server.url, "SCALING_MODEL": str(model)}
        with processes([(command, env)], workers):
            return rate(client, events, cores)


def with_bare_loops(
    server: RedisServer, model: Path, per_worker: int, workers: int, cores: list[float]
) -> float:
    events = per_worker * workers
    with redis.Redis(port=server.port) as client:
        fill(client, events)
        commands = [("benchmarks.scaling", "--bare", f"{server.port},{model},{n}") for n in range(workers)]
        with processes([(command, {}) for command in commands], workers):
            return rate(client, events, cores)


def bare_loop(port: int, model: str, name: str) -> None:
    """One process of the reference: read, decode, predict, encode, write and acknowledge, for ever."""
    from benchmarks.measuring import DurationPredicted, RideStarted  # noqa: PLC0415 - as lean as it can be

    forest: Any = skops.io.load(model, trusted=skops.io.get_untrusted_types(file=model))
    forest.n_jobs = None
    decode, encode = msgspec.json.Decoder(RideStarted).decode, msgspec.json.Encoder().encode
    client = redis.Redis(port=port)
    wait_for_the_others()
    while True:
        found: Any = client.xreadgroup(GROUP, name, {SOURCE: ">"}, count=BATCH, block=1000)
        for _, entries in found or ():
            batch = [decode(fields[b"data"]) for _, fields in entries]
            predicted = forest.predict(features(batch)).tolist()
            pipe = client.pipeline(transaction=False)
            for ride, value in zip(batch, predicted, strict=True):
                pipe.xadd(TARGET, {"data": encode(DurationPredicted(ride.ride_id, value))})
            pipe.xack(SOURCE, GROUP, *(entry for entry, _ in entries))
            pipe.execute()


def show(
    figures: Mapping[str, Sequence[float]], cores: Mapping[str, Sequence[float]], counts: Sequence[int]
) -> None:
    table = Table(title="A forest of 100 trees on Redis, rides of 250 bytes", title_justify="left")
    for column in (
        "workers",
        "eventml events/s",
        "of linear",
        "cores busy",
        "bare loop events/s",
        "of linear",
        "cores busy",
        "eventml / bare scaling",
    ):
        table.add_column(column, justify="right")
    middle = {name: statistics.median(values) for name, values in figures.items()}
    for count in counts:
        ours, bare = (
            middle[f"{who} {count}"] / middle[f"{who} {counts[0]}"] / (count / counts[0])
            for who in ("eventml", "bare")
        )
        table.add_row(
            str(count),
            f"{middle[f'eventml {count}']:,.0f}",
            f"{ours:.2f}",
            f"{statistics.median(cores[f'eventml {count}']):.1f}",
            f"{middle[f'bare {count}']:,.0f}",
            f"{bare:.2f}",
            f"{statistics.median(cores[f'bare {count}']):.1f}",
            f"{ours / bare:.2f}",
        )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=60_000, help="a worker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        port, model, name = options.bare.split(",")
        bare_loop(int(port), model, name)
        return
    print(machine("eventml", "redis", "hiredis", "scikit-learn"))
    with tempfile.TemporaryDirectory() as folder, RedisServer() as server:
        path = Path(folder) / "forest.skops"
        train(path)
        cases: dict[str, Callable[[], float]] = {}
        cores: defaultdict[str, list[float]] = defaultdict(list)
        for count in options.workers:
            for who, run in ("eventml", with_eventml), ("bare", with_bare_loops):
                name = f"{who} {count}"
                cases[name] = partial(run, server, path, options.events, count, cores[name])
        show(interleave(cases, options.rounds), cores, options.workers)


if __name__ == "__main__":
    main()
