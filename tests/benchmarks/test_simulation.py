"""The simulation: nothing is lost in it, what queueing theory knows holds, autoscalers keep their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulation_autoscaling import Burst, Episode, Pod, Scaler, allowed, wishes
from benchmarks.simulation_fit import line
from benchmarks.simulation_plan import KAFKA, REDIS, Assumptions, Unit, kafka_plan, redis_plan
from benchmarks.simulation_stream import Cores, Cost, Costs, simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.simulation_plan import Plan

FREE = Cost(0.0, 0.0)
costs = st.builds(
    Costs,
    *[st.builds(Cost, st.floats(0, 1e-3), st.floats(1e-7, 1e-4))] * 5,
    held=st.floats(0, 1),
)


@given(costs, st.integers(1, 4), st.integers(1, 3), st.floats(0.5, 8), st.integers(1, 300))
def test_every_event_is_completed_and_nothing_is_busier_than_it_can_be(
    costs: Costs, workers: int, servers: int, cores: float, most: int
) -> None:
    found = simulate(
        costs, workers=workers, servers=min(servers, workers), cores=cores, events=1_000, most=most
    )
    assert found.published == found.completed == 1_000 * workers
    assert found.cores <= cores * (1 + 1e-9)
    assert max(found.servers) <= 1 + 1e-9
    work = sum(cost.event for cost in (costs.read, costs.complete, costs.decode, costs.encode, costs.call))
    assert found.completed / found.seconds <= cores / work * (1 + 1e-9)
    assert found.completed / found.seconds <= workers / costs.call.event * (1 + 1e-9)


@given(costs, st.floats(100, 20_000), st.integers(0, 100))
def test_littles_law_holds(costs: Costs, rate: float, seed: int) -> None:
    found = simulate(costs, workers=2, cores=2, events=500, rate=rate, seed=seed)
    assert found.present == pytest.approx(found.completed / found.seconds * found.latency)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_a_handler_alone_is_an_m_d_1_queue(load: float) -> None:
    """Pollaczek and Khinchine know how long events wait."""
    seconds = 1e-3
    handler_alone = Costs(FREE, FREE, FREE, FREE, Cost(seconds, 0.0), 0.0)
    found = simulate(handler_alone, workers=1, events=15_000, rate=load / seconds, most=1)
    assert found.latency == pytest.approx(seconds * (1 + load / (2 * (1 - load))), rel=0.1)
    assert found.cores == pytest.approx(load, rel=0.03)


def shared(seconds: list[float], number: int) -> list[float]:
    """When each thread ends, worked out one end after the other."""
    now, ends, left = 0.0, [0.0] * len(seconds), dict(enumerate(seconds))
    while left:
        speed = min(1.0, number / len(left))
        step = min(left.values())
        now += step / speed
        left = {name: rest - step for name, rest in left.items()}
        for name in [name for name, rest in left.items() if rest <= 1e-12]:
            ends[name] = now
            del left[name]
    return ends


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=12), st.integers(1, 8))
def test_cores_are_shared_evenly(seconds: list[float], number: int) -> None:
    env = simpy.Environment()
    cores = Cores(env, number)
    ends = [0.0] * len(seconds)

    def thread(name: int) -> simpy.events.ProcessGenerator:
        yield cores.run(seconds[name])
        ends[name] = env.now

    for name in range(len(seconds)):
        env.process(thread(name))
    env.run()
    assert ends == pytest.approx(shared(seconds, number))
    assert cores.busy == pytest.approx(sum(seconds))


def test_more_workers_help_until_the_cores_are_full() -> None:
    call = Costs(FREE, FREE, FREE, FREE, Cost(0.0, 1e-4), 0.0)
    rates = [simulate(call, workers=n, cores=2).rate for n in (1, 2, 3)]
    assert rates == [pytest.approx(r, rel=0.05) for r in (10_000, 20_000, 20_000)]


@given(st.floats(1, 500), st.floats(501, 2_000), st.floats(0, 1e-3), st.floats(1e-7, 1e-4))
def test_the_line_through_two_points_meets_both(few: float, many: float, batch: float, event: float) -> None:
    fitted = line((few, event + batch / few), (many, event + batch / many))
    assert fitted.of(100) == pytest.approx(batch + 100 * event, rel=1e-6)


# Autoscaling

scalers = st.builds(
    Scaler,
    lag=st.none() | st.floats(1e3, 1e6),
    cpu=st.floats(0.2, 0.9),
    demand=st.none() | st.floats(1e3, 1e5),
    scrape=st.sampled_from([5.0, 15.0, 30.0, 60.0]),
    least=st.integers(1, 4),
    most=st.integers(4, 50),
)


@given(scalers, st.floats(1e3, 1e5), st.floats(1, 200))
def test_no_event_is_lost_in_a_burst_and_pods_stay_within_their_limits(
    scaler: Scaler, rate: float, start: float
) -> None:
    burst = Burst(quiet=rate, end=1_500)
    found = Episode(scaler, burst, Pod(rate, start))
    last, lag, _, _ = found.trace[-1]
    assert found.handled + lag == pytest.approx(burst.published(last))
    assert all(lag >= 0 and delay >= 0 and ready <= scaler.most for _, lag, delay, ready in found.trace)
    assert all(scaler.least <= number <= scaler.most for _, number in found.pods)


@given(st.floats(1, 1e5), st.floats(1, 20), st.floats(0, 5_000))
def test_the_time_of_an_event_is_the_inverse_of_the_events_until_then(
    quiet: float, times: float, now: float
) -> None:
    burst = Burst(quiet, times)
    assert burst.published_at(burst.published(now)) == pytest.approx(now, abs=1e-6)


def test_without_a_burst_nothing_is_late_and_no_pod_is_added() -> None:
    found = Episode(Scaler(lag=10_000, cpu=0.7), Burst(quiet=1_000, times=1), Pod(1_000, 20))
    assert (found.delay, found.caught_up, found.pods) == (0, 0, [(0, 2)])


@given(st.integers(1, 100), st.integers(0, 1_000), st.integers(1, 100))
def test_the_hpa_doubles_or_adds_four_in_15_seconds(before: int, wish: int, pods: int) -> None:
    number = allowed(Scaler(least=1, most=10_000), pods, wish, before)
    assert number <= max(before + 4, 2 * before, pods)
    assert number <= max(wish, 1)


def test_each_trigger_asks_for_pods_as_kubernetes_documents_it() -> None:
    assert wishes(Scaler(lag=100), 1_000, 0, 0, 2, 2) == [10]
    assert wishes(Scaler(lag=100), 405, 0, 0, 4, 4) == [4]  # within 10 %
    assert wishes(Scaler(cpu=0.5), 0, 0, 1.0, 4, 4) == [8]
    assert wishes(Scaler(cpu=0.5), 0, 0, 1.0, 4, 8) == [8]  # four of them are starting, and count as idle
    assert wishes(Scaler(demand=100), 6_000, 500, 0, 2, 2) == [6]


# The plan


rates = st.floats(1e4, 1e7)
units = st.builds(
    Unit,
    worker=st.floats(1e-6, 1e-3),
    worker_rate=st.floats(1e3, 1e6),
    broker=st.floats(1e-6, 1e-4),
    traffic=st.floats(100, 5e3),
    stored=st.floats(100, 5e3),
)


@pytest.mark.parametrize(("make", "given_"), [(redis_plan, REDIS), (kafka_plan, KAFKA)])
@given(rate=rates, unit=units)
def test_a_plan_has_room_and_grows_with_the_rate(
    make: Callable[[float, Unit], Plan], given_: Assumptions, rate: float, unit: Unit
) -> None:
    plan, twice = make(rate, unit), make(2 * rate, unit)
    assert plan.worker_cores * given_.full >= rate * unit.worker * (1 - 1e-9)
    assert plan.workers * unit.worker_rate * given_.full >= rate * (1 - 1e-9)
    assert plan.traffic <= given_.network * given_.full * (1 + 1e-9)
    assert plan.nodes <= twice.nodes <= 2 * plan.nodes
    assert sum(plan.money.values()) < sum(twice.money.values())
