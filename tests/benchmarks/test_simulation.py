"""The simulation: nothing is lost in it, what queueing theory knows holds, autoscalers keep their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulation_autoscaling import Burst, Pod, Scaler, allowed, follow, wishes
from benchmarks.simulation_plan import KAFKA, REDIS, Assumptions, Unit, kafka_plan, redis_plan
from benchmarks.simulation_stream import TICK, Cores, Cost, Costs, Thread, simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.simulation_plan import Plan

BATCHES = [1, 1024]


def line(batch: float, event: float) -> Cost:
    return Cost(BATCHES, [batch + event * number for number in BATCHES])


FREE = line(0.0, 0.0)
lines = st.builds(line, st.floats(0, 1e-3), st.floats(1e-7, 1e-4))
costs = st.builds(Costs, lines, lines, lines, lines, read=st.floats(0.1, 0.9), reply=st.floats(1, 1_000))


@given(
    costs, st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 300), st.floats(0, 1e-3)
)
def test_every_event_is_completed_and_nothing_is_busier_than_it_can_be(
    costs: Costs, workers: int, servers: int, cores: int, most: int, switch: float
) -> None:
    nodes = min(servers, workers)
    found = simulate(costs, workers, nodes, most, batches=20, cores=cores, switch=switch)
    assert found.completed == 20 * most * workers
    assert found.cpu * found.completed <= cores * found.seconds * (1 + 1e-9)
    assert found.cpu >= 0.7 * sum(cost.of(most) / most for cost in (costs.server, costs.loop, costs.call))
    assert 20 * 0.6 * costs.server.of(most) * workers / nodes <= found.seconds, "a server has one thread"


def test_cores_are_shared_in_turns_of_a_tick() -> None:
    env = simpy.Environment()
    cores = Cores(env, 2)
    seconds = {Thread(number): 0.1 * number for number in range(1, 6)}
    ends = {}

    def run(thread: Thread) -> simpy.events.ProcessGenerator:
        yield cores.run(thread, seconds[thread])
        ends[thread.process] = env.now

    for thread in seconds:
        env.process(run(thread))
    env.run(env.timeout(10.0))
    needed = {thread.process: found for thread, found in cores.busy.items()}
    assert sorted(ends, key=ends.__getitem__) == sorted(needed, key=needed.__getitem__)
    assert max(ends.values()) == pytest.approx(sum(needed.values()) / 2, rel=0.2)


def test_a_thread_that_has_waited_behind_another_process_pays_for_the_switch() -> None:
    def busy(*processes: str) -> float:
        env = simpy.Environment()
        cores = Cores(env, 1, switch=1.0)
        for process in processes:
            cores.run(Thread(process), TICK / 4)
        env.run(env.timeout(10.0))
        return sum(cores.busy.values())

    assert busy("a", "a") < TICK
    assert busy("a", "b") == pytest.approx(1.0, abs=TICK)


def test_more_workers_help_until_the_cores_are_full() -> None:
    call = Costs(FREE, FREE, line(0.0, 1e-4), FREE, 0.5, 100.0)
    rates = [simulate(call, n, cores=2).rate for n in (1, 2, 3)]
    assert rates == [pytest.approx(r, rel=0.1) for r in (10_000, 20_000, 20_000)]


def test_one_server_limits_any_number_of_workers_and_three_do_not() -> None:
    server = Costs(line(0.0, 1e-5), FREE, FREE, FREE, 0.5, 100.0)
    rates = [simulate(server, 3, n, cores=4).rate for n in (1, 3)]
    assert rates == [pytest.approx(r, rel=0.15) for r in (100_000, 300_000)]


@given(st.integers(1, 1024), st.floats(0, 1e-3), st.floats(1e-7, 1e-4))
def test_between_two_sizes_a_cost_is_on_their_line(events: int, batch: float, event: float) -> None:
    assert line(batch, event).of(events) == pytest.approx(batch + events * event, rel=1e-6)


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
    found = follow(scaler, burst, Pod(rate, start))
    last, lag, _, _ = found.trace[-1]
    assert found.handled + lag == pytest.approx(burst.published(last))
    assert all(lag >= 0 and delay >= 0 and ready <= scaler.most for _, lag, delay, ready in found.trace)
    assert all(scaler.least <= number <= scaler.most for _, number in found.pods)


@given(st.floats(1, 1e5), st.floats(1, 20), st.floats(0, 4_200))
def test_the_time_of_an_event_is_the_inverse_of_the_events_until_then(
    quiet: float, times: float, now: float
) -> None:
    burst = Burst(quiet, times)
    assert burst.published_at(burst.published(now)) == pytest.approx(now, abs=1e-6)


def test_without_a_burst_nothing_is_late_and_no_pod_is_added() -> None:
    found = follow(Scaler(lag=10_000, cpu=0.7), Burst(quiet=1_000, times=1), Pod(1_000, 20))
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
    copied=st.floats(100, 5e3),
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
