"""The doctor's forecast for a worker on Redis, against the rate that one has.

    python -m benchmarks.forecast [--events N] [--rounds N] [--models linear,boosting,forest]

Each round examines each model with batches of up to 1024 and of up to 64 events, and runs a worker with the
batch that the doctor advises. It shows median, least and greatest of forecast / measured.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import skops.io
from rich.console import Console
from rich.table import Table

import eventml
from backends.redis.server import RedisServer
from benchmarks import redis_cases as ways
from benchmarks.measuring import DurationPredicted, RideStarted, machine, rides
from benchmarks.web_models import features, train
from eventml.deploy.doctor import advise, examine

SIZES = (1024, 64)


def duration(batch: list[RideStarted], model: Any) -> list[DurationPredicted]:
    minutes = model.predict(features(batch)).tolist()
    return [DurationPredicted(ride.ride_id, value) for ride, value in zip(batch, minutes, strict=True)]


def forecast(model: Path, size: int, rows: Path) -> tuple[float, int]:
    """The doctor's forecast in events a second, and the batch that it is for."""
    bus = eventml.Bus("benchmark")
    bus.predictor(ways.SOURCE, to=ways.TARGET, model=model, max_batch=size)(duration)
    advice = advise(asyncio.run(examine(bus, bus.handlers["duration"], str(rows), lambda _: None)))
    return advice.rate, advice.max_batch


def measured(url: str, model: Path, size: int, events: list[RideStarted]) -> float:
    gc.collect()
    gc.freeze()  # as `eventml run` does
    try:
        return ways.with_handler(url, events, duration, model=model, max_batch=size)
    finally:
        gc.unfreeze()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=60_000, help="of a round, for batches of 1024 events")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default="linear,boosting,forest")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    with RedisServer(settings={"appendonly": "no", "save": ""}) as server, TemporaryDirectory() as name:
        folder = Path(name)
        print(machine("scikit-learn"), ways.server(server.url), sep="; ")
        rows = folder / "rows.jsonl"
        rows.write_bytes(b"\n".join(map(ways.encode, rides(min(chosen.events, 1_000)))))
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for model, trained in train(folder).items():
            skops.io.dump(trained, folder / f"{model}.skops")
        for _ in range(chosen.rounds):
            for model in chosen.models.split(","):
                for size in SIZES:
                    path, events = folder / f"{model}.skops", rides(chosen.events * max(size, 256) // 1024)
                    expected, batch = forecast(path, size, rows)
                    pair = expected, measured(server.url, path, batch, events)
                    found.setdefault((model, size), []).append(pair)
    report(found)


def report(found: dict[tuple[str, int], list[tuple[float, float]]]) -> None:
    table = Table(title="Forecast of the doctor / measured on Redis", title_justify="left")
    for column in ("model", "max_batch", "forecast", "measured", "median ratio", "min", "max"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for (model, size), pairs in found.items():
        ratios = [expected / rate for expected, rate in pairs]
        medians = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        shown = (statistics.median(ratios), min(ratios), max(ratios))
        table.add_row(model, str(size), *(f"{one:,.0f}" for one in medians), *(f"{one:.2f}" for one in shown))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
