"""Models as scikit-learn has them and compiled with ONNX: alone, and through Redis.

    python -m benchmarks.models [--events N] [--rounds N] [--models forest,boosting,linear]
                                [--bentoml PYTHON]

First rows a second of the model alone, in calls of 1, 64 and 1024 rows. Then the same model on a stream of
Redis, by one worker, against FastStream, and against BentoML with 16 clients over HTTP; PYTHON is the
interpreter of an environment that has BentoML.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import msgspec
import skops.io

from backends.redis.server import RedisServer
from benchmarks import redis_cases as ways
from benchmarks.measuring import DurationPredicted, interleave, machine, report, rides
from benchmarks.web import commands, free_port, load, serving
from benchmarks.web_models import features, train
from eventml.models import Artefact, single_threaded
from eventml.models import load as load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.measuring import RideStarted

SIZES = (1, 64, 1024)
SECONDS = 0.2  # of calls for one figure
CLIENTS = 16
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=50_000, help="that eventml handles in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="forest,boosting,linear")
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
