"""The demo, from trips to predictions: `python -m examples.rides.demo --help`.

Trains the two models on some trips, streams other trips through the bus to three predictors, shows a live
table, and reports errors and speed.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from rich.console import Console
from rich.live import Live

from eventml.bus import create_topics
from eventml.errors import EventMLError, MissingExtraError
from examples.rides.display import LiveTable, quantile, summary
from examples.rides.folder import ENVIRONMENT
from examples.rides.generator import generate
from examples.rides.scoreboard import Scoreboard, collecting
from examples.rides.targets import TARGETS
from examples.rides.tlc import read
from examples.rides.train import GENERATED, train
from examples.rides.trips import ride_events

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventml import Bus
    from eventml.runtime import Worker
    from examples.rides.train import Report
    from examples.rides.trips import Trips

_EVENTS = 100_000
_SHARE = 0.8  # share of the trips of a single file to train on
_RATE = 10_000.0  # rides a second; the three predictors keep up with it on a laptop
_CHUNK = 256
_PAUSE = 0.05  # seconds between two publications at a low rate
_IDLE = 0.5  # seconds

console = Console(stderr=True)


def split(options: argparse.Namespace) -> tuple[Trips, Trips, str]:
    """Return the trips to train on, the trips to stream, and a description of the first."""
    if not options.trips:
        live = generate(options.events or _EVENTS, options.seed, part="live")
        return generate(GENERATED, options.seed), live, f"{GENERATED} generated trips, seed {options.seed}"
    if len(options.trips) == 1:
        trips = read(options.trips)
        cut = int(len(trips) * _SHARE)
        past, live, words = trips.take(slice(cut)), trips.take(slice(cut, None)), "the first 80% of the file"
    else:
        past, live = read(options.trips[:-1]), read(options.trips[-1:])
        words = ", ".join(file.name for file in options.trips[:-1])
    return past, live.take(slice(options.events)), words


async def produce(bus: Bus, events: Sequence[Any], rate: float) -> None:
    """Publish rides, at a rate in events per second, or as fast as the bus accepts them if the rate is 0."""
    start, chunk = time.monotonic(), min(max(int(rate * _PAUSE), 1), _CHUNK) if rate else _CHUNK
    for begin in range(0, len(events), chunk):
        if rate:
            await anyio.sleep(max(start + begin / rate - time.monotonic(), 0))
        await bus.publish_many(
            "rides.started", events[begin : begin + chunk], key=lambda ride: str(ride["pickup_location_id"])
        )


async def stream(bus: Bus, live: Trips, options: argparse.Namespace) -> tuple[dict[str, Any], Scoreboard]:
    """Run the bus over the trips. Returns the counts and speeds, and the predictions."""
    scoreboard = Scoreboard(live)
    events = list(ride_events(live))
    async with bus:
        await create_topics(bus)  # does nothing on a backend that needs no topics created
        return await run(bus, scoreboard, events, options), scoreboard


async def run(
    bus: Bus, scoreboard: Scoreboard, events: Sequence[Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Publish and handle the events on an open bus, and collect the predictions."""
    async with (
        collecting(bus, scoreboard),
        bus.worker() as worker,
        anyio.create_task_group() as tasks,
        anyio.create_task_group() as running,
    ):
        running.start_soon(worker.run)
        await worker.ready.wait()
        if not options.json:
            tasks.start_soon(show, worker)
        start = time.monotonic()
        async with anyio.create_task_group() as producers:
            for number in range(options.producers):
                share = events[number :: options.producers]
                producers.start_soon(produce, bus, share, options.rate / options.producers)
        await worker.idle(_IDLE)
        await all_collected(worker, scoreboard)
        tasks.cancel_scope.cancel()
        worker.stop()
    return measured(worker, len(events), start)


async def all_collected(worker: Worker, scoreboard: Scoreboard) -> None:
    """Wait until the scoreboard has every published prediction, for ten seconds at most."""
    wanted = {target.name: worker.stats[target.name].completed for target in TARGETS}
    with anyio.move_on_after(10):
        while any(scoreboard.answered(name) < count for name, count in wanted.items()):  # noqa: ASYNC110 - polling
            await anyio.sleep(0.02)


async def show(worker: Worker) -> None:
    """Update the live table until cancelled; then print one of the whole run."""
    table = LiveTable(worker.stats)
    try:
        with Live(table.render({}), console=console, auto_refresh=False, transient=True) as live:
            while True:
                await anyio.sleep(0.25)
                live.update(table.render(await worker.lag()), refresh=True)
    finally:
        console.print(table.render(dict.fromkeys(worker.stats, 0), whole_run=True))


def measured(worker: Worker, events: int, start: float) -> dict[str, Any]:
    """Return counts, speed and latencies by consumer."""
    seconds = max(max(stats.last_progress for stats in worker.stats.values()) - start, 1e-9)
    consumers = {
        name: {
            "received": stats.received,
            "published": stats.published,
            "dead_letters": stats.dead_letters,
            "events_per_second": round(stats.completed / seconds, 1),
            "p50_ms": _milliseconds(quantile(stats.latency, 0.5)),
            "p99_ms": _milliseconds(quantile(stats.latency, 0.99)),
        }
        for name, stats in worker.stats.items()
    }
    versions = {loaded.handler.name: loaded.model.version for loaded in worker.handlers if loaded.model}
    return {"events": events, "seconds": round(seconds, 3), "consumers": consumers, "versions": versions}


def scored(
    scoreboard: Scoreboard, reports: Mapping[str, Report], versions: Mapping[str, str]
) -> dict[str, Any]:
    """Return each model's version and error, and the error of the baseline that always predicts the mean."""
    return {
        target.name: {"version": versions[target.name], **score}
        for target in TARGETS
        if (score := scoreboard.score(target, reports[target.name].mean)) is not None
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _rate(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (rate := float(text)) < math.inf:
            return rate
    raise argparse.ArgumentTypeError(f"{text} is not a number of rides a second, or 0")


def _options(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m examples.rides.demo", description=__doc__)
    parser.add_argument(
        "--trips",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="TLC files: train on all but the last, and stream the last (a single file is split at 80%%)",
    )
    parser.add_argument(
        "--events", type=int, help=f"number of rides to stream (default: {_EVENTS:,} generated rides)"
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        default=_RATE,
        help=f"rides to publish a second (default: {_RATE:,.0f}; 0: as fast as the bus accepts them, which "
        "measures the speed, and lets the rides wait for the predictors)",
    )
    parser.add_argument(
        "--producers", type=int, default=1, help="number of concurrent producers (default: 1)"
    )
    parser.add_argument("--backend", metavar="URL", help="backend: memory://, redis://..., kafka://...")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated trips")
    parser.add_argument("--json", action="store_true", help="print only one JSON object")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write an HTML report about the durations"
    )
    parser.add_argument(
        "--alarm",
        default="examples.monitoring.alarms:print_alarm",
        metavar="MODULE:FUNCTION",
        help="function to call if the report finds crossed limits (default: print to standard error)",
    )
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if every ride has a result, 1 if one has none, 2 if it cannot run."""
    options = _options(args)
    try:
        with tempfile.TemporaryDirectory(prefix="rides-") as folder, _models_in(folder), _quiet():
            return _demo(options, Path(folder))
    except EventMLError as exc:
        console.print(f"error: {exc}", markup=False)
        return 2


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the log line of each dead letter: the summary counts them."""
    log = logging.getLogger("eventml")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _models_in(folder: str) -> ExitStack:
    """Let the app use the models of this demo, until the returned stack is closed."""
    stack, before = ExitStack(), os.environ.get(ENVIRONMENT)
    os.environ[ENVIRONMENT] = folder

    def restore() -> None:
        del os.environ[ENVIRONMENT]
        if before is not None:
            os.environ[ENVIRONMENT] = before

    stack.callback(restore)
    return stack


def _demo(options: argparse.Namespace, folder: Path) -> int:
    from examples.rides.app import bus  # noqa: PLC0415 - not needed for `--help`

    past, live, words = split(options)
    if not options.json:
        console.print(f"training on {len(past):,} trips ({words}), then streaming {len(live):,}")
    reports = train(past, folder, trained_on=words, seed=options.seed)
    overrides = {"backend": options.backend} if options.backend else None
    bus.configure(bus.read_settings(overrides))
    result, scoreboard = anyio.run(stream, bus, live, options)
    result["models"] = scored(scoreboard, reports, result.pop("versions"))
    missing = [name for name in scoreboard.predictions if scoreboard.answered(name) < result["events"]]
    if options.json:
        print(msgspec.json.encode(result).decode())
    else:
        console.print(summary(result))
        pace = f"at {options.rate:,.10g} a second" if options.rate else "as fast as the bus accepted them"
        console.print(f"{result['events']:,} rides in {result['seconds']:.2f} s, published {pace}")
        for line in _reasons(scoreboard):
            console.print(line, markup=False)
    if options.report:
        _report(live, scoreboard, options)
    for name in missing:
        console.print(
            f"error: {name} has predictions or dead letters for {scoreboard.answered(name)} of "
            f"{result['events']} rides"
        )
    return 1 if missing else 0


def _report(live: Trips, scoreboard: Scoreboard, options: argparse.Namespace) -> None:
    try:
        from examples.rides.report import examine, finish  # noqa: PLC0415 - it comes with an extra
    except ImportError as exc:
        raise MissingExtraError("examples", "--report") from exc
    report = examine(live, scoreboard.predictions["duration"], "Durations of streamed rides")
    finish(report, options.report, options.alarm)
    console.print(f"report: {options.report}", markup=False)


def _reasons(scoreboard: Scoreboard) -> Iterator[str]:
    for name, dead_letters in scoreboard.dead_letters.items():
        for ride, reason in list(dead_letters.items())[:3]:
            yield f"{name} moved {ride} to the dead letters: {reason}"


if __name__ == "__main__":
    sys.exit(main())
