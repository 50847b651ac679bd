"""Simulates a stream, fitted to one worker and one server; then plans for millions of events a second.

    python -m benchmarks.simulation [--measured FILE | --save FILE] [--events N] [--rounds N] [--plots FOLDER]

Measures what a worker and a Redis server need for an event, simulates more workers and more nodes, and measures
those too. Prints the comparison, the plan, and how autoscalers follow a burst. With `--measured` nothing is
measured: `benchmarks/simulation.json` has what `docs/scale.md` shows, and `--plots docs/images` draws its pictures.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.simulation_autoscaling import Burst, Episode, Pod, Scaler, autoscale
from benchmarks.simulation_fit import FITTED, Measured, predict, take, units
from benchmarks.simulation_measuring import Case
from benchmarks.simulation_plan import Plan, kafka_plan, redis_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Rows = list[list[str]]

RATES: Final = (1e5, 1e6, 1e7)
IMAGE: Final = 10.0
"""Seconds from the wish for a pod to its first process: scheduling, an image that the node has, the container."""

SCALERS: Final = {
    "HPA, CPU 70 %, 8 pods": Scaler(cpu=0.7),
    "HPA, CPU 70 %": Scaler(cpu=0.7, most=40),
    "lag, 10,000 a pod, 8 pods (the template)": Scaler(lag=10_000),
    "lag, 10,000 a pod": Scaler(lag=10_000, most=40),
    "lag, 100,000 a pod": Scaler(lag=100_000, most=40),
    "lag, 1,000,000 a pod": Scaler(lag=1_000_000, most=40),
    "lag and CPU": Scaler(lag=1_000_000, cpu=0.7, most=40),
}

COMPARED: Final = ["case", "measured events/s", "range", "simulated", "difference", ""]
PLANNED: Final = ["", *(f"{broker}, {rate:,.0f}/s" for broker in ("Redis", "Kafka") for rate in RATES)]
FOLLOWED: Final = [
    "setting",
    "million events behind",
    "seconds behind",
    "minutes until caught up",
    "minutes later than 30 s",
    "pods",
    "pod hours more",
    "changes",
]


def compared(measured: Measured, simulated: Mapping[Case, float]) -> Rows:
    rows = []
    for case, rate in simulated.items():
        rates = [sample.rate for sample in measured.of(case)]
        middle = statistics.median(rates)
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        kind = "fitted" if case in FITTED else "predicted"
        rows.append([str(case), f"{middle:,.0f}", spread, f"{rate:,.0f}", f"{rate / middle - 1:+.0%}", kind])
    return rows


def plans(measured: Measured) -> list[Plan]:
    """Redis at each rate, then Kafka at each rate."""
    on_redis, on_kafka = units(measured)
    return [
        make(rate, unit) for make, unit in ((redis_plan, on_redis), (kafka_plan, on_kafka)) for rate in RATES
    ]


def planned(made: list[Plan]) -> Rows:
    lines: dict[str, Callable[[Plan], str]] = {
        "workers": lambda p: f"{p.workers:,}",
        "their cores": lambda p: f"{p.worker_cores:,}",
        "topics (Redis), partitions (Kafka)": lambda p: f"{p.parts:,}",
        "nodes of the broker, and why": lambda p: f"{p.nodes:,}, {p.reason}",
        "their cores": lambda p: f"{p.node_cores:,}",
        "network of a node, Gbit/s": lambda p: f"{p.traffic * 8 / 1e9:.1f}",
        "kept, GB": lambda p: f"{p.stored / 1e9:,.0f}",
        "$ a month: workers": lambda p: f"{p.money['workers']:,.0f}",
        "$ a month: broker": lambda p: f"{p.money['brokers']:,.0f}",
        "$ a month: traffic between zones": lambda p: f"{p.money['traffic']:,.0f}",
    }
    return [[name, *(of(plan) for plan in made)] for name, of in lines.items()]


def scene(measured: Measured) -> tuple[Burst, Pod]:
    """Pods of two workers, of which two are half busy in quiet times."""
    rate = 2 * units(measured)[0].worker_rate
    return Burst(quiet=rate), Pod(rate, IMAGE + measured.median(Case(forest=True), "start"))


def followed(measured: Measured) -> dict[str, Episode]:
    burst, pod = scene(measured)
    return {name: autoscale(scaler, burst, pod) for name, scaler in SCALERS.items()}


def episodes(found: Mapping[str, Episode]) -> Rows:
    return [
        [
            name,
            f"{e.behind / 1e6:,.1f}",
            f"{e.delay:,.0f}",
            "never" if e.caught_up is None else f"{e.caught_up / 60:,.1f}",
            f"{e.late / 60:,.1f}",
            str(e.most),
            f"{e.pod_hours:.1f}",
            str(e.changes),
        ]
        for name, e in found.items()
    ]


def show(title: str, columns: list[str], rows: Rows) -> None:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=60_000, help="a worker; without a model twice as many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measured", type=Path, help="take the measurements from this file")
    parser.add_argument("--save", type=Path, help="write the measurements into this file")
    parser.add_argument("--plots", type=Path, help="draw pictures into this folder")
    options = parser.parse_args()
    if options.measured:
        measured = msgspec.json.decode(options.measured.read_bytes(), type=Measured)
    else:
        measured = take(options.events, options.rounds)
    if options.save:
        options.save.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n")
    print(measured.machine)
    simulated = predict(measured)
    show("Simulation and measurement", COMPARED, compared(measured, simulated))
    show("What a rate needs: Redis, then Kafka", PLANNED, planned(plans(measured)))
    found = followed(measured)
    show("A burst of ten times the load, for ten minutes", FOLLOWED, episodes(found))
    if options.plots:
        from benchmarks import simulation_plots  # noqa: PLC0415 - only this needs matplotlib

        options.plots.mkdir(parents=True, exist_ok=True)
        simulation_plots.compared(measured, simulated, FITTED, options.plots / "scale-compared.svg")
        simulation_plots.followed(found, scene(measured)[0], options.plots / "scale-burst.svg")


if __name__ == "__main__":
    main()
