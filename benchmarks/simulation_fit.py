"""Fits the simulation to one worker and one server as measured, and predicts the other cases."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from benchmarks.measuring import interleave, machine
from benchmarks.scaling import train
from benchmarks.simulation_kafka import KafkaSample, measure_kafka
from benchmarks.simulation_measuring import Case, Sample, crowd, measure, servers
from benchmarks.simulation_plan import Unit
from benchmarks.simulation_stream import Cost, Costs, simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALL_BATCH: Final = 64
HARDLY: Final = 0.33
"""Cores that other processes may keep busy: what measures needs some, too."""
MUCH: Final = 0.8
"""Cores with which they make the machine crowded."""
FITTED: Final = [Case(forest, batch=size) for forest in (True, False) for size in (1024, SMALL_BATCH)]
PREDICTED: Final = [
    Case(forest, workers, nodes, size)
    for forest in (True, False)
    for workers, nodes, size in ((1, 1, 256), (2, 1, 1024), (3, 1, 1024), (3, 3, 1024))
]

CPU: Final = ("loop", "call", "server")


class Measured(msgspec.Struct):
    """All that was measured, and where."""

    machine: str
    cores: int
    redis: list[tuple[Case, list[Sample]]]
    kafka: list[KafkaSample]

    def idle(self, case: Case) -> list[Sample]:
        """The runs that no other process disturbed much, or `alike` without any."""
        return [sample for sample in dict(self.redis)[case] if _hardly(sample)] or self.alike(case)

    def alike(self, case: Case) -> list[Sample]:
        """Runs that can be compared with those of other cases: undisturbed ones, if each case has some.

        Otherwise disturbed ones, and of these the half with the least disturbance: an event costs more CPU
        time while other processes use the cores, too.
        """
        undisturbed = all(any(map(_hardly, found)) for _, found in self.redis)
        every = sorted(dict(self.redis)[case], key=lambda sample: sample.others)
        found = [sample for sample in every if _hardly(sample) == undisturbed] or every
        return found if undisturbed else found[: (len(found) + 1) // 2]

    def median(self, case: Case, figure: str) -> float:
        return median(self.alike(case), figure)

    def left(self, case: Case) -> float:
        """Cores that other processes had left."""
        return self.cores - max(self.median(case, "others"), 0.0)

    def crowded(self, case: Case) -> float:
        """Part of the CPU time that is lost if other processes crowd the cores; 0 if not measured."""
        undisturbed, much = ([s for s in dict(self.redis)[case] if test(s)] for test in (_hardly, _much))
        if not (undisturbed and much):
            return 0.0
        alone, crowded = (sum(median(found, name) for name in CPU) for found in (undisturbed, much))
        return max(1 - alone / crowded, 0.0)

    def start(self) -> float:
        """Seconds that a worker with the forest takes to start, on an idle machine."""
        return min(sample.start for sample in dict(self.redis)[Case(forest=True)])


def _hardly(sample: Sample) -> bool:
    return sample.others < HARDLY


def _much(sample: Sample) -> bool:
    return sample.others > MUCH


def median(samples: Sequence[Sample | KafkaSample], figure: str) -> float:
    return statistics.median(float(getattr(sample, figure)) for sample in samples)


def take(events: int, rounds: int, patience: float) -> Measured:
    """Measure all cases in turn, each when nothing else runs, or after so many seconds."""
    samples: dict[Case, list[Sample]] = {case: [] for case in (*FITTED, *PREDICTED)}
    cores = len(os.sched_getaffinity(0))

    def one(case: Case, model: Path, *, patience: float = patience) -> float:
        per_worker = events if case.forest else 2 * events
        with servers(case.nodes) as started:
            samples[case].append(measure(case, started, model, per_worker, patience))
        return samples[case][-1].rate

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "forest.skops"
        train(model)
        interleave({str(case): partial(one, case, model) for case in samples}, rounds)
        with crowd(cores):
            for _ in range(max(rounds, 1)):
                for forest in (True, False):
                    one(Case(forest), model, patience=0)
    return Measured(
        machine("eventml", "redis", "scikit-learn"),
        cores,
        [(case, found[1:] or found) for case, found in samples.items()],
        list(measure_kafka(3 * events, rounds))[-max(rounds, 1) :],
    )


def line(small: tuple[float, float], large: tuple[float, float]) -> Cost:
    """The cost of a batch and of an event, from two batches: their events, and seconds for each of these."""
    (few, slow), (many, fast) = small, large
    batch = max((slow - fast) / (1 / few - 1 / many), 0.0)
    return Cost(batch, fast - batch / many)


def fit(measured: Measured, *, forest: bool) -> Costs:
    """Costs from one worker with small and with large batches; `held` and `lost` make its rates right."""
    small, large = Case(forest, batch=SMALL_BATCH), Case(forest)

    def cost(figure: str, part: float = 1.0) -> Cost:
        points = [(c.batch, measured.median(c, figure) * part) for c in (small, large)]
        return line(points[0], points[1])

    read = measured.median(large, "read")
    loop = cost("loop", 0.5)
    costs = Costs(cost("server", read), cost("server", 1 - read), loop, loop, cost("call"), 0.0)
    costs = msgspec.structs.replace(costs, crowded=measured.crowded(large))
    # The handler holds the GIL for a part of its time, and if that is not enough, it waits with the GIL.
    tried = [
        msgspec.structs.replace(costs, held=min(n / 10, 1.0), lost=max(n - 10, 0) * 2e-7) for n in range(26)
    ]
    return min(
        tried, key=lambda costs: sum(abs(math.log(_ratio(measured, costs, c))) for c in (small, large))
    )


def _ratio(measured: Measured, costs: Costs, case: Case) -> float:
    """The simulated rate in times of the measured one."""
    cores, events = measured.left(case), 60 * case.batch
    simulated = simulate(
        costs, workers=case.workers, servers=case.nodes, cores=cores, events=events, most=case.batch
    )
    return simulated.rate / measured.median(case, "rate")


def predict(measured: Measured) -> dict[Case, float]:
    """Events a second of each case, simulated."""
    costs = {forest: fit(measured, forest=forest) for forest in (True, False)}
    return {
        case: _ratio(measured, costs[case.forest], case) * measured.median(case, "rate")
        for case in (*FITTED, *PREDICTED)
    }


def units(measured: Measured) -> tuple[Unit, Unit]:
    """Costs of an event with the forest, on Redis and on Kafka, where a worker needs more without a model."""
    forest, nothing = measured.idle(Case(forest=True)), measured.idle(Case(forest=False))
    on_redis = Unit(
        worker=median(forest, "loop") + median(forest, "call"),
        worker_rate=median(forest, "rate"),
        broker=median(forest, "server") + median(forest, "publish"),
        traffic=median(forest, "received") + median(forest, "sent"),
        stored=median(forest, "memory"),
    )
    more = max(median(measured.kafka, "worker") - median(nothing, "loop") - median(nothing, "call"), 0.0)
    on_kafka = Unit(
        worker=on_redis.worker + more,
        worker_rate=1 / (1 / on_redis.worker_rate + more),
        broker=median(measured.kafka, "broker"),
        traffic=median(measured.kafka, "traffic"),
        stored=median(measured.kafka, "stored"),
    )
    return on_redis, on_kafka
