"""Fits the simulation to one worker and one server as measured, and predicts the other cases.

No figure of a predicted case is used. One worker's CPU seconds are taken as measured in batches of 64 and of
1,024, and the handler's as measured alone. Two constants are fitted: the time that is lost, for each model,
to the rates of these batches; and what a switch costs, to a worker's CPU seconds beside busy processes.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from benchmarks.measuring import interleave, machine
from benchmarks.scaling import train
from benchmarks.simulation_kafka import KafkaSample, measure_kafka
from benchmarks.simulation_measuring import SIZES, Case, Sample, crowd, measure, measure_call
from benchmarks.simulation_plan import Unit
from benchmarks.simulation_stream import Cost, Costs, Outcome, simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCHES: Final = [64, 1024]
QUIET: Final = 0.33
"""Cores that other processes may keep busy: what measures needs some, too."""
STEPS: Final = 8
FITTED: Final = [Case(forest, batch=size) for forest in (True, False) for size in reversed(BATCHES)]
PREDICTED: Final = [
    Case(forest, workers, nodes, size)
    for forest in (True, False)
    for workers, nodes, size in ((1, 1, 256), (2, 1, 1024), (3, 1, 1024), (3, 3, 1024))
]


class Measured(msgspec.Struct):
    """All that was measured, and where.

    Attributes:
        redis: The runs of each case; `crowded` those of one worker beside a crowd.
        calls: CPU seconds of the forest's handler alone, and of the other, for batches of each of `SIZES`.
    """

    machine: str
    cores: int
    redis: list[tuple[Case, list[Sample]]]
    crowded: list[tuple[Case, list[Sample]]]
    calls: tuple[list[float], list[float]]
    kafka: list[KafkaSample]

    def median(self, case: Case, figure: str, *, crowded: bool = False) -> float:
        return median(dict(self.crowded if crowded else self.redis)[case], figure)

    def rates(self, case: Case) -> list[float]:
        return [sample.rate for sample in dict(self.redis)[case]]

    def start(self) -> float:
        """Seconds that a worker with the forest takes to start."""
        return min(sample.start for sample in dict(self.redis)[Case(forest=True)])


def median(samples: Sequence[Sample | KafkaSample], figure: str) -> float:
    return statistics.median(float(getattr(sample, figure)) for sample in samples)


def take(events: int, rounds: int, tries: int) -> Measured:
    """Measure all cases in turn; a run that other processes have disturbed is repeated."""
    samples: dict[Case, list[Sample]] = {case: [] for case in (*FITTED, *PREDICTED)}

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "forest.skops"
        train(model)

        def one(case: Case) -> Sample:
            return measure(case, model, events if case.forest else 2 * events)

        def keep(case: Case) -> float:
            found = [one(case)]
            while found[-1].others > QUIET and len(found) < tries:
                found.append(one(case))
            samples[case].append(min(found, key=lambda sample: sample.others))
            return samples[case][-1].rate

        interleave({str(case): lambda case=case: keep(case) for case in samples}, rounds)  # type: ignore[misc]
        calls = measure_call(model, min(rounds, 1) / 2), measure_call(None, min(rounds, 1) / 2)
        with crowd():
            beside = [(Case(f), [one(Case(f)) for _ in range(max(rounds, 1))]) for f in (True, False)]
    return Measured(
        machine("eventml", "redis", "scikit-learn"),
        len(os.sched_getaffinity(0)),
        [(case, found[1:] or found) for case, found in samples.items()],
        beside,
        calls,
        list(measure_kafka(3 * events, rounds))[-max(rounds, 1) :],
    )


class Fit(msgspec.Struct):
    """The costs with the forest and without a model, by `Case.forest`, and what a switch costs."""

    cores: int
    costs: dict[bool, Costs]
    switch: float = 3e-4  # to begin with

    def simulate(self, case: Case, *, crowd: int = 0) -> Outcome:
        costs, sizes = self.costs[case.forest], (case.workers, case.nodes, case.batch)
        return simulate(costs, *sizes, cores=self.cores, switch=self.switch, crowd=crowd)


def _costs(measured: Measured, *, forest: bool) -> Costs:
    def of(figure: str) -> Cost:
        return Cost(BATCHES, [measured.median(Case(forest, batch=n), figure) * n for n in BATCHES])

    call, lost = Cost(SIZES, measured.calls[not forest]), Cost(BATCHES, [0.0 for _ in BATCHES])
    read, reply = (measured.median(Case(forest), figure) for figure in ("read", "sent"))
    return Costs(of("server"), of("loop"), call, lost, read, reply)


def fit(measured: Measured) -> Fit:
    """Find `lost` by the rates, and `switch` by the CPU seconds that an event needs more in a crowd."""
    models = (True, False)
    found = Fit(measured.cores, {forest: _costs(measured, forest=forest) for forest in models})
    cases = [Case(forest) for forest in models]
    wanted = sum(measured.median(c, "cpu", crowded=True) / measured.median(c, "cpu") - 1 for c in cases)
    for _ in range(STEPS):
        for case in FITTED:
            lost, at = found.costs[case.forest].lost.seconds, BATCHES.index(case.batch)
            more = 1 / measured.median(case, "rate") - 1 / found.simulate(case).rate
            lost[at] = max(lost[at] + more * case.batch, 0.0)
        got = sum(found.simulate(c, crowd=found.cores).cpu / found.simulate(c).cpu - 1 for c in cases)
        found.switch *= min(max(wanted / max(got, 1e-3), 0.5), 2.0)
    return found


def predict(measured: Measured) -> dict[Case, float]:
    """Events a second of each case, simulated."""
    fitted = fit(measured)
    return {case: fitted.simulate(case).rate for case in (*FITTED, *PREDICTED)}


def units(measured: Measured) -> tuple[Unit, Unit]:
    """Costs of an event with the forest, on Redis and on Kafka, where a worker needs more without a model."""
    forest = {name: measured.median(Case(forest=True), name) for name in Sample.__struct_fields__}
    nothing = measured.median(Case(forest=False), "loop") + measured.median(Case(forest=False), "call")
    kafka = {name: median(measured.kafka, name) for name in KafkaSample.__struct_fields__}
    on_redis = Unit(
        worker=forest["loop"] + forest["call"],
        worker_rate=forest["rate"],
        broker=forest["server"] + forest["publish"],
        traffic=forest["received"] + forest["sent"],
        stored=forest["memory"],
        copied=forest["log"],
    )
    more = max(kafka["worker"] - nothing, 0.0)
    on_kafka = Unit(
        worker=on_redis.worker + more,
        worker_rate=1 / (1 / on_redis.worker_rate + more),
        broker=kafka["broker"],
        traffic=kafka["traffic"],
        stored=kafka["stored"],
        copied=kafka["stored"],
    )
    return on_redis, on_kafka
