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
from benchmarks.simulation_measuring import LOOK, SIZES, Case, Sample, crowd, measure, measure_call
from benchmarks.simulation_plan import Unit
from benchmarks.simulation_stream import TICK, Cost, Costs, Outcome, simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCHES: Final = [64, 1024]
QUIET: Final = 0.33
"""Cores that other processes may keep busy: what measures needs some, too."""
STEPS: Final = 8
FITTED: Final = [Case(forest, batch=size) for forest in (True, False) for size in reversed(BATCHES)]
MODELS: Final = [Case(forest=True), Case(forest=False)]
PREDICTED: Final = [
    Case(forest, workers, nodes, size)
    for forest in (True, False)
    for workers, nodes, size in ((1, 1, 256), (2, 1, 1024), (3, 1, 1024), (3, 3, 1024))
]


class Measured(msgspec.Struct):
    """All that was measured, and where.

    Attributes:
        redis: The runs of each case; of one worker also beside a crowd, and with the node of a cluster.
        calls: CPU seconds of the forest's handler alone, and of the other, for batches of each of `SIZES`.
    """

    machine: str
    cores: int
    redis: list[tuple[Case, list[Sample]]]
    crowded: list[tuple[Case, list[Sample]]]
    node: list[tuple[Case, list[Sample]]]
    calls: tuple[list[float], list[float]]
    kafka: list[KafkaSample]

    def median(self, case: Case, figure: str) -> float:
        return median(dict(self.redis)[case], figure)

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

        def one(case: Case, tries: int = 1, *, cluster: bool = False) -> Sample:
            found = list[Sample]()
            while len(found) < tries and (not found or found[-1].others > QUIET):
                found.append(measure(case, model, events if case.forest else 2 * events, cluster=cluster))
            return min(found, key=lambda sample: sample.others)

        def keep(case: Case) -> float:
            samples[case].append(one(case, tries))
            return samples[case][-1].rate

        interleave({str(case): lambda case=case: keep(case) for case in samples}, rounds)  # type: ignore[misc]
        calls = measure_call(model, min(rounds, 1) / 2), measure_call(None, min(rounds, 1) / 2)
        node = [(c, [one(c, tries, cluster=True) for _ in range(max(rounds, 1))]) for c in MODELS]
        with crowd():
            beside = [(c, [one(c) for _ in range(max(rounds, 1))]) for c in MODELS]
    return Measured(
        machine("eventml", "redis", "scikit-learn"),
        len(os.sched_getaffinity(0)),
        [(case, found[1:] or found) for case, found in samples.items()],
        beside,
        node,
        calls,
        list(measure_kafka(3 * events, rounds))[-max(rounds, 1) :],
    )


class Fit(msgspec.Struct):
    """The costs with and without the forest, those with nodes of a cluster, and what all share."""

    cores: int
    costs: dict[bool, Costs]
    in_cluster: dict[bool, Costs]
    others: float
    switch: float = 3e-4  # to begin with

    def simulate(self, case: Case, *, crowd: int = 0) -> Outcome:
        costs = (self.in_cluster if case.nodes > 1 else self.costs)[case.forest]
        sizes = case.workers, case.nodes, case.batch
        others = [(LOOK * self.others, LOOK * (1 - self.others)), *[(TICK, 0.0)] * crowd]
        return simulate(costs, *sizes, cores=self.cores, switch=self.switch, others=others)


def _costs(measured: Measured, case: Case, *, cluster: bool) -> Costs:
    """Costs of one worker, of batches as they were measured; on a cluster's node in proportion."""
    node = dict(measured.node)[case]

    def of(figure: str) -> Cost:
        times = median(node, figure) / measured.median(case, figure) if cluster else 1.0
        rows = [measured.median(msgspec.structs.replace(case, batch=n), figure) * n * times for n in BATCHES]
        return Cost(BATCHES, rows)

    call, lost = Cost(SIZES, measured.calls[not case.forest]), Cost(BATCHES, [0.0 for _ in BATCHES])
    read, reply = (measured.median(case, figure) for figure in ("read", "sent"))
    return Costs(of("server"), of("loop"), call, lost, read, reply)


def fit(measured: Measured) -> Fit:
    """Find `lost` by the rates, and `switch` by the CPU seconds that an event needs more in a crowd."""
    plain, in_cluster = (
        {case.forest: _costs(measured, case, cluster=cluster) for case in MODELS} for cluster in (False, True)
    )
    looks = statistics.median(measured.median(case, "others") for case in FITTED)
    others = min(max(looks, 0.0), 1.0)  # what measures is one thread
    found = Fit(measured.cores, plain, in_cluster, others)
    wanted = sum(median(dict(measured.crowded)[c], "cpu") / measured.median(c, "cpu") - 1 for c in MODELS)
    for _ in range(STEPS):
        for case in FITTED:
            lost, at = plain[case.forest].lost.seconds, BATCHES.index(case.batch)
            more = 1 / measured.median(case, "rate") - 1 / found.simulate(case).rate
            lost[at] = max(lost[at] + more * case.batch, 0.0)
        got = sum(found.simulate(c, crowd=found.cores).cpu / found.simulate(c).cpu - 1 for c in MODELS)
        found.switch *= min(max(wanted / max(got, 1e-3), 0.5), 2.0)
    for forest, costs in in_cluster.items():
        costs.lost.seconds[:] = plain[forest].lost.seconds
    return found


def predict(measured: Measured) -> dict[Case, float]:
    """Events a second of each case, simulated."""
    fitted = fit(measured)
    return {case: fitted.simulate(case).rate for case in (*FITTED, *PREDICTED)}


def units(measured: Measured) -> tuple[Unit, Unit]:
    """Costs of an event with the forest: on a node of a cluster, and on Kafka.

    On Kafka a worker was measured without a model: it needs so much more, or less, than on Redis.
    """
    case, _ = MODELS
    forest = {name: median(dict(measured.node)[case], name) for name in Sample.__struct_fields__}
    kafka = {name: median(measured.kafka, name) for name in KafkaSample.__struct_fields__}
    plain, without = (measured.median(c, "loop") + measured.median(c, "call") for c in MODELS)
    on_redis = Unit(
        worker=forest["loop"] + forest["call"],
        worker_rate=forest["rate"],
        broker=forest["server"] + forest["publish"],
        traffic=forest["received"] + forest["sent"],
        stored=forest["memory"],
        copied=forest["log"],
    )
    more = kafka["worker"] - without
    on_kafka = Unit(
        worker=plain + more,
        worker_rate=1 / (1 / measured.median(case, "rate") + more),
        broker=kafka["broker"],
        traffic=kafka["traffic"],
        stored=kafka["stored"],
        copied=kafka["stored"],
    )
    return on_redis, on_kafka
