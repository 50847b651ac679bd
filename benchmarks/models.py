"""Models as scikit-learn has them and compiled with ONNX: alone, through Redis, and while they are replaced.

    python -m benchmarks.models [--events N] [--rounds N] [--models forest,boosting,linear]
                                [--swaps N] [--seconds S] [--rate N] [--bentoml PYTHON]

First rows a second of the model alone, in calls of 1, 64 and 1024 rows. Then the same model on a stream of
Redis, by one worker, against FastStream, and against BentoML with 16 clients over HTTP; PYTHON is the
interpreter of an environment that has BentoML. Then latencies of events with three workers, quiet and
while the file of the last model is replaced N times in S seconds, in turn. `--swaps 0` leaves this out.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from http import HTTPStatus
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import msgspec
import skops.io
from rich.console import Console
from rich.table import Table

from backends.redis.server import RedisServer
from benchmarks import redis_cases as ways
from benchmarks.measuring import DurationPredicted, interleave, machine, report, rides
from benchmarks.redis import Load
from benchmarks.web import ONE_THREAD, ROOT, commands, free_port, load, serving
from benchmarks.web_models import features, train
from eventml.models import Artefact, single_threaded
from eventml.models import load as load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.measuring import RideStarted

SIZES = (1, 64, 1024)
SECONDS = 0.2  # of calls for one figure
CLIENTS = 16
WORKERS = 3
ORIGINAL, COMPILED = "scikit-learn", "compiled"


def calls(model: Any, rows: Any) -> float:
    """Rows a second in calls with these rows."""
    single_threaded()
    done, begun = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begun) < SECONDS or not done:
        model.predict(rows)
        done += 1
    return done * len(rows) / seconds


def predictor(model: Any) -> ways.Predict:
    def predict(batch: Sequence[RideStarted]) -> list[DurationPredicted]:
        minutes = model.predict(features(batch)).tolist()
        return [DurationPredicted(ride.ride_id, value) for ride, value in zip(batch, minutes, strict=True)]

    return predict


def streams(
    url: str, events: Sequence[RideStarted], models: dict[str, Any], bento: Callable[[], float] | None
) -> dict[str, Callable[[], float]]:
    """The cases by name, each with about as many events as it handles in seconds."""
    some, few = events[: len(events) // 4], events[: len(events) // 100]
    original = predictor(models[ORIGINAL])
    cases: dict[str, Callable[[], float]] = {
        f"eventml, {ORIGINAL}": partial(ways.with_eventml, url, events, original),
        f"eventml, {COMPILED}": partial(ways.with_eventml, url, events, predictor(models[COMPILED])),
        "FastStream, one by one": partial(ways.with_faststream, url, few, original, ways.one_by_one),
        "FastStream, batches and a pipeline": partial(
            ways.with_faststream, url, some, original, ways.in_batches
        ),
    }
    return cases if bento is None else {**cases, f"BentoML, HTTP, {CLIENTS} clients": bento}


@contextmanager
def bentoml(python: str, model: str, folder: Path, seconds: float) -> Iterator[Callable[[], float]]:
    """Serve a model with BentoML; inside the context a call measures its requests a second."""
    file, port = folder / "rides", free_port()
    file.write_bytes(b"\n".join(map(ways.encode, rides(8 * CLIENTS))))
    with serving(commands(None, python, port)["BentoML"], port, model, folder):
        until_ready(f"http://127.0.0.1:{port}/readyz")
        load(file, port, 1, seconds, "rides")  # it learns how long a call takes

        def rate() -> float:
            try:
                return load(file, port, CLIENTS, seconds, "rides")[0]
            except msgspec.DecodeError:  # of nothing, because the load has ended
                print(f"{model}: BentoML has refused requests, and this round does not count")
                return math.nan

        yield rate


def until_ready(url: str) -> None:
    """Wait until BentoML's worker answers; its port is open before."""
    deadline = time.monotonic() + 60
    while not is_ready(url):
        assert time.monotonic() < deadline, f"{url} does not come up"
        time.sleep(0.1)


def is_ready(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:  # noqa: S310 - this machine's
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


@contextmanager
def workers(url: str, model: Path) -> Iterator[None]:
    """Run three workers that look for a new model each half second."""
    ways.fill(url, [])
    command = [sys.executable, "-m", "eventml", "run", "benchmarks.models_app:bus", "--operations", "off"]
    environment = {**os.environ, **ONE_THREAD, "EVENTML_BACKEND": url, "MODELS_MODEL": str(model)}
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*command, "--workers", str(WORKERS)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        ways.until_it_reads(url, WORKERS)
        yield
    finally:
        process.terminate()
        process.wait()


def latencies(url: str, rate: float, seconds: float, swap: Callable[[], None], swaps: int) -> list[float]:
    """The latency of each event in seconds, while the model is replaced this many times."""
    over = threading.Event()

    def replace() -> None:
        for _ in range(swaps):
            if over.wait(seconds / swaps):
                return
            swap()

    thread = threading.Thread(target=replace)
    sent = Load(url, ways.entries(rides(int(rate * seconds)), faststream=False), rate)
    thread.start()
    try:
        sent.run()
    finally:
        over.set()
        thread.join()
    connection = ways.Resp(url)
    connection.send("DEL", ways.TARGET)  # which the next call reads from its begin
    connection.receive()
    connection.close()
    return sent.took


def compare_swaps(url: str, folder: Path, name: str, chosen: argparse.Namespace) -> None:
    """Latencies of each event, quiet and with swaps, in turn: two rounds of half the time each."""
    path = folder / "model.skops"
    model = train(folder)[name]
    versions = cycle([skops.io.dumps(model), skops.io.dumps(model)])  # never the same bytes

    def swap() -> None:
        new = path.with_suffix(".new")
        new.write_bytes(next(versions))
        new.replace(path)

    swap()
    took: dict[str, list[float]] = {"quiet": [], "swaps": []}
    with workers(url, path):
        latencies(url, chosen.rate, min(chosen.seconds / 4, 5.0), swap, 0)  # warms up
        for turn in range(2):
            for case, swaps in (("quiet", 0), ("swaps", (chosen.swaps + turn) // 2)):
                took[case] += latencies(url, chosen.rate, chosen.seconds / 2, swap, swaps)
    table = Table(
        title=f"{name}, {chosen.swaps} swaps in {chosen.seconds:g} s, {WORKERS} workers, "
        f"{chosen.rate:g} events/s",
        title_justify="left",
    )
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
    parser.add_argument("--events", type=int, default=50_000, help="that eventml handles in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="forest,boosting,linear")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="of latencies with swaps, and without")
    parser.add_argument("--rate", type=float, default=500.0, help="events a second, of the latencies")
    parser.add_argument("--bentoml", metavar="PYTHON", help="of an environment that has bentoml")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    with RedisServer(settings={"appendonly": "no", "save": ""}) as server, TemporaryDirectory() as name:
        folder = Path(name)
        print(
            machine("scikit-learn", "onnxruntime", "skl2onnx", "faststream"),
            ways.server(server.url),
            sep="; ",
        )
        if not chosen.bentoml:
            print(
                "BentoML is left out: give --bentoml PYTHON, of an environment that has it", file=sys.stderr
            )
        trained = train(folder)
        for model in chosen.models.split(","):
            compare(server.url, folder, model, trained[model], chosen)
        if chosen.swaps:
            compare_swaps(server.url, folder, chosen.models.split(",")[-1], chosen)


def compare(url: str, folder: Path, name: str, trained: Any, chosen: argparse.Namespace) -> None:
    """Compare one model, alone and on streams."""
    path = folder / f"{name}.skops"
    skops.io.dump(trained, path)
    begun = time.perf_counter()
    compiled = load_model(Artefact(path, compile="onnx"), name=name)
    took = time.perf_counter() - begun
    models = {ORIGINAL: load_model(path, name=name).object, COMPILED: compiled.object}
    print(
        f"{name}: compiled and compared in {took:.1f} s, largest difference {compiled.object.difference:.1g}"
    )
    events = rides(chosen.events)
    for size in SIZES:
        rows = features(events[:size])
        cases = {kind: partial(calls, model, rows) for kind, model in models.items()}
        report(f"{name} alone, {size} rows a call", interleave(cases, chosen.rounds), ORIGINAL, "rows/s")
    with ExitStack() as stack:
        bento = None
        if chosen.bentoml:
            bento = stack.enter_context(bentoml(chosen.bentoml, name, folder, 3.0))
        figures = interleave(streams(url, events, models, bento), chosen.rounds)
    report(f"{name}, {chosen.events:,} rides through Redis", figures, f"eventml, {ORIGINAL}")


if __name__ == "__main__":
    main()
