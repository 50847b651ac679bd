"""Simulates a stream, fitted to one worker and one server; then plans for millions of events a second.

    python -m benchmarks.simulation [--measured FILE | --save FILE] [--events N] [--rounds N] [--tries N]
        [--plots FOLDER]

Measures what a worker and a Redis server need for an event, simulates more workers and more nodes, and
measures those too. Prints the comparison, the plan, and how autoscalers follow a burst. With `--measured`
nothing is measured: `benchmarks/simulation.json` has what `docs/scale.md` shows, and `--plots docs/images`
draws its pictures.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.simulation_autoscaling import Burst, Episode, Pod, Scaler, follow
from benchmarks.simulation_fit import FITTED, Measured, predict, take, units
from benchmarks.simulation_plan import Plan, kafka_plan, redis_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.simulation_measuring import Case

Rows = list[list[str]]

RATES: Final = (1e5, 1e6, 1e7)
IMAGE: Final = 10.0
"""Seconds from the wish for a pod to its first process: scheduling, an image that is there, the container."""
NODE: Final = 90.0
"""Seconds until a new node has joined and has the image."""
POD: Final = 5_000.0
"""Events a second of a pod: two workers with a heavy model."""
BURSTS: Final = [Burst(quiet=POD, start=600 + 3.75 * number) for number in range(8)]
"""Two pods are half busy in quiet times. It makes a difference when a burst begins between two looks."""

LAG, DEMAND, MANY = 30 * POD, 0.7 * POD, 30
SCALERS: Final = {
    "HPA, CPU 70%": Scaler(cpu=0.7, most=MANY),
    "KEDA, lag 10,000, 8 pods at most": Scaler(lag=10_000),
    "KEDA, lag 10,000": Scaler(lag=10_000, most=MANY),
    "KEDA, lag 150,000": Scaler(lag=LAG, most=MANY),
    "KEDA, lag 150,000, and CPU 70%": Scaler(lag=LAG, cpu=0.7, most=MANY),
    "KEDA, demand 3,500/s": Scaler(demand=DEMAND, most=MANY),
    "the same, Prometheus every 15 s (the template)": Scaler(demand=DEMAND, most=MANY, scrape=15.0),
    "the same, 4 pods at least": Scaler(demand=DEMAND, most=MANY, scrape=15.0, least=4),
    "the same, each pod on a new node": Scaler(demand=DEMAND, most=MANY, scrape=15.0),
}

COMPARED: Final = ["case", "measured, events/s", "least and most", "simulated", "difference", ""]
PLANNED: Final = ["", *(f"{broker}, {rate:,.0f}/s" for broker in ("Redis", "Kafka") for rate in RATES)]
FOLLOWED: Final = ["setting", "million events behind", "seconds behind", "minutes until caught up", "pods"]


def compared(measured: Measured, simulated: Mapping[Case, float]) -> Rows:
    rows = []
    for case, rate in simulated.items():
        rates = measured.rates(case)
        middle = statistics.median(rates)
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        kind = "fitted" if case in FITTED else "predicted"
        rows.append([str(case), f"{middle:,.0f}", spread, f"{rate:,.0f}", f"{rate / middle - 1:+.0%}", kind])
    return rows


def planned(measured: Measured) -> Rows:
    on_redis, on_kafka = units(measured)
    plans = [*(redis_plan(rate, on_redis) for rate in RATES), *(kafka_plan(rate, on_kafka) for rate in RATES)]
    lines: dict[str, Callable[[Plan], str]] = {
        "workers": lambda p: f"{p.workers:,}",
        "cores of workers": lambda p: f"{p.worker_cores:,}",
        "topics (Redis), partitions (Kafka)": lambda p: f"{p.parts:,}",
        "nodes of the broker": lambda p: f"{p.nodes:,}",
        "what decides": lambda p: max(p.needs, key=lambda name: p.needs[name]),
        "cores of the broker": lambda p: f"{p.node_cores:,}",
        "network of a node, Gbit/s": lambda p: f"{p.traffic * 8 / 1e9:.1f}",
        "kept: memory (Redis), disk (Kafka)": lambda p: f"{p.stored / 1e12:,.2f} TB",
        **{
            f"$ a month: {title}": lambda p, name=name: f"{p.money[name]:,.0f}"  # type: ignore[misc]
            for title, name in (("workers", "workers"), ("broker", "broker"), ("between zones", "traffic"))
        },
    }
    return [[name, *(of(plan) for plan in plans)] for name, of in lines.items()]


def bursts(start: float) -> dict[str, Episode]:
    """A burst under each setting, begun at the worst moment, if a worker takes so many seconds to start."""

    def worst(name: str, scaler: Scaler) -> Episode:
        pod = Pod(POD, IMAGE + start + (NODE if "new node" in name else 0.0))
        return max((follow(scaler, burst, pod) for burst in BURSTS), key=lambda episode: episode.delay)

    return {name: worst(name, scaler) for name, scaler in SCALERS.items()}


def followed(episodes: Mapping[str, Episode]) -> Rows:
    return [
        [
            name,
            f"{max(lag for _, lag, _, _ in e.trace) / 1e6:,.2f}",
            f"{e.delay:,.0f}",
            f"{e.caught_up / 60:,.1f}",
            str(max(number for _, number in e.pods)),
        ]
        for name, e in episodes.items()
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
    parser.add_argument("--tries", type=int, default=1, help="of a run that other processes disturb")
    parser.add_argument("--measured", type=Path, help="take the measurements from this file")
    parser.add_argument("--save", type=Path, help="write the measurements into this file")
    parser.add_argument("--plots", type=Path, help="draw pictures into this folder")
    options = parser.parse_args()
    if options.measured:
        measured = msgspec.json.decode(options.measured.read_bytes(), type=Measured)
    else:
        measured = take(options.events, options.rounds, options.tries)
    if options.save:
        options.save.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n")
    print(measured.machine)
    simulated, episodes = predict(measured), bursts(measured.start())
    show("Simulation and measurement", COMPARED, compared(measured, simulated))
    show("What a rate needs: Redis, then Kafka", PLANNED, planned(measured))
    show("A burst of ten times the load, for ten minutes", FOLLOWED, followed(episodes))
    if options.plots:
        from benchmarks import simulation_plots  # noqa: PLC0415 - only this needs matplotlib

        options.plots.mkdir(parents=True, exist_ok=True)
        simulation_plots.compared(measured, simulated, options.plots / "scale-compared.svg")
        simulation_plots.followed(episodes, options.plots / "scale-burst.svg")


if __name__ == "__main__":
    main()
