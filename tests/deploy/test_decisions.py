"""What a supervisor decides, without a process: properties of its pure parts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.workers import HealthLimits
from eventml.deploy.workers.ipc import HandlerProgress, WorkerState
from eventml.deploy.workers.health import WorkerHealth, kill_reason, replace_reason
from eventml.deploy.workers.service import assign_handlers, unassigned_handlers
from eventml.deploy.workers.ipc import HandlerCounters, HistogramSnapshot
from eventml.deploy.workers.reports import total
from eventml.deploy.workers.restarts import (
    Crash,
    RestartPolicy,
    crash_counts,
    is_crash_loop,
    recent_crashes,
    restart_delay,
)
from eventml.deploy.workers.rolling import Watch
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

HANDLERS = ("duration", "tip", "alarm")
TIMES = st.floats(0, 1e6)


# Placement


@given(st.integers(1, 50), st.lists(st.sampled_from(HANDLERS), unique=True))
def test_a_number_means_so_many_workers_alike(count: int, only: list[str]) -> None:
    chosen = assign_handlers(str(count), only, HANDLERS)
    assert len({place.name for place in chosen}) == count
    assert {place.only for place in chosen} == {tuple(only)}
    assert unassigned_handlers(chosen, HANDLERS) == [h for h in HANDLERS if only and h not in only]


@given(st.dictionaries(st.sampled_from(HANDLERS), st.integers(1, 9), min_size=1))
def test_a_number_for_each_handler(counts: dict[str, int]) -> None:
    chosen = assign_handlers(
        ", ".join(f"{handler} = {count}" for handler, count in counts.items()), [], HANDLERS
    )
    assert Counter(place.only[0] for place in chosen) == counts
    assert len({place.name for place in chosen}) == len(chosen)
    assert unassigned_handlers(chosen, HANDLERS) == [h for h in HANDLERS if h not in counts]


@pytest.mark.parametrize(
    ("wanted", "only", "said"),
    [
        ("0", [], "'0' is no number of workers"),
        ("-1", [], "'-1' is no number"),
        ("four", [], "'four' is no number"),
        ("", [], "'' is no number"),
        ("tip=", [], "'' is no number"),
        ("tip=0", [], "'0' is no number"),
        ("tip=1,tip=2", [], "tip is named twice"),
        ("tips=1", [], "no handler is named 'tips'; there are: duration, tip, alarm"),
        ("2", ["tips"], "no handler is named 'tips'"),
        ("tip=1", ["tip"], "leave --only out"),
    ],
)
def test_what_makes_no_sense_is_refused(wanted: str, only: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        assign_handlers(wanted, only, HANDLERS)


# Restarts


@given(st.lists(st.tuples(TIMES, st.booleans()), max_size=20), TIMES)
def test_the_breaker_opens_at_five_idle_crashes_in_a_minute(
    seen: list[tuple[float, bool]], now: float
) -> None:
    crashes = [Crash(at, counts) for at, counts in seen]
    within = [crash for crash in crashes if now - crash.at < 60 and crash.counts]
    assert is_crash_loop(crashes, RestartPolicy(), now) == (len(within) >= 5)


@given(st.lists(st.tuples(TIMES, st.booleans()), max_size=50), TIMES)
def test_the_wait_is_bounded_and_forgets(seen: list[tuple[float, bool]], now: float) -> None:
    patience, crashes = RestartPolicy(), [Crash(at, counts) for at, counts in seen]
    wait = restart_delay(crashes, patience, now)
    assert patience.first <= wait <= patience.longest
    assert wait == restart_delay(recent_crashes(crashes, patience, now), patience, now)
    assert restart_delay([Crash(now, counts=False)] * 40, patience, now) == patience.first


@given(finished=st.booleans(), waited=st.booleans(), killed=st.booleans())
def test_an_end_without_work_speaks_against_a_worker_unless_it_was_killed_waiting(
    finished: bool, waited: bool, killed: bool
) -> None:
    assert crash_counts(finished=finished, waited=waited, killed=killed) == (
        not finished and (not waited or not killed)
    )


@given(st.integers(1, 30))
def test_each_idle_crash_doubles_the_wait(count: int) -> None:
    patience = RestartPolicy()
    waits = [restart_delay([Crash(0, counts=True)] * n, patience, 1) for n in range(1, count + 1)]
    assert waits == [min(0.25 * 2**n, 10.0) for n in range(count)]


# Liveness

STATES: Sequence[WorkerState] = get_args(WorkerState)
LIMITS = HealthLimits(boot_grace=60, silent_after=10, stuck_after=100, hung_after=50)
PROGRESS = st.builds(
    HandlerProgress,
    handler=st.sampled_from(HANDLERS),
    in_flight=st.integers(0, 3),
    quiet=st.floats(0, 300),
    oldest=st.floats(0, 300),
    hung=st.integers(0, 2),
    hung_for=st.floats(0, 100),
)


@given(st.floats(0, 1000), st.floats(0, 1000), st.lists(PROGRESS))
def test_a_worker_that_starts_is_bound_by_the_boot_grace_alone(
    since: float, heard: float, progress: list[HandlerProgress]
) -> None:
    signs = WorkerHealth(state="starting", since=since, heard=heard, progress=progress)
    assert (kill_reason(signs, LIMITS, 1000) is not None) == (1000 - since > 60)


@given(st.sampled_from(["ready", "waiting"]), st.floats(990, 1000), st.lists(PROGRESS))
def test_a_worker_is_killed_only_for_events_in_hand_that_get_nowhere(
    state: WorkerState, heard: float, progress: list[HandlerProgress]
) -> None:
    signs = WorkerHealth(state=state, since=0, heard=heard, progress=progress)
    stuck = any(one.in_flight and one.quiet + 1000 - heard > 100 for one in progress)
    assert (kill_reason(signs, LIMITS, 1000) is not None) == stuck


@given(st.floats(10.001, 1000), st.lists(PROGRESS))
def test_a_silent_worker_is_killed(silence: float, progress: list[HandlerProgress]) -> None:
    why = kill_reason(
        WorkerHealth(state="ready", since=0, heard=1000 - silence, progress=progress), LIMITS, 1000
    )
    assert why is not None
    assert "event loop" in why


@given(st.sampled_from(["draining", "failed"]), st.floats(0, 1000), st.lists(PROGRESS))
def test_one_that_ends_is_left_to_its_deadline(
    state: WorkerState, heard: float, progress: list[HandlerProgress]
) -> None:
    assert (
        kill_reason(WorkerHealth(state=state, since=0, heard=heard, progress=progress), LIMITS, 1000) is None
    )


@given(st.sampled_from(STATES), st.floats(990, 1000), st.lists(PROGRESS))
def test_a_worker_is_replaced_only_for_threads_that_run_on(
    state: WorkerState, heard: float, progress: list[HandlerProgress]
) -> None:
    why = replace_reason(WorkerHealth(state=state, since=0, heard=heard, progress=progress), LIMITS, 1000)
    hung = [one for one in progress if one.hung and one.hung_for + 1000 - heard > 50]
    assert (why is not None) == (state == "ready" and bool(hung))
    assert why is None or hung[0].handler in why


# Model files

LOOKS = st.lists(st.sampled_from(["", "old", "half", "new"]), max_size=12)


@given(LOOKS)
def test_a_changed_model_is_named_once_and_only_when_it_holds_still(looks: list[str]) -> None:
    watch, before, named = Watch(), "", ""
    for look in looks:
        found = watch.changed({"m": {"old"}}, {"m": look} if look else {})
        expected = look not in {"", "old"} and look == before and look != named
        assert found == (["m"] if expected else [])
        before, named = look, look if expected else named


def test_a_worker_that_lags_behind_the_others_is_enough() -> None:
    watch = Watch()
    assert watch.changed({"m": {"old", "new"}}, {"m": "new"}) == []
    assert watch.changed({"m": {"old", "new"}}, {"m": "new"}) == ["m"]


# Totals

COUNTS = st.builds(
    HistogramSnapshot,
    counts=st.lists(st.integers(0, 9).map(float), min_size=3, max_size=3),
    sum=st.integers(0, 99).map(float),
)
TALLIES = st.builds(
    HandlerCounters,
    received=st.integers(0, 99),
    completed=st.integers(0, 99),
    latency=st.none() | COUNTS,
    batch=COUNTS,
    stages=st.dictionaries(st.sampled_from(["call", "decode"]), COUNTS),
)


@given(st.lists(TALLIES))
def test_totals_add_up_and_leave_the_parts_alone(tallies: list[HandlerCounters]) -> None:
    copies = [total([tally]) for tally in tallies]
    together = total(tallies)
    assert together.completed == sum(tally.completed for tally in tallies)
    for stage in together.stages:
        parts = [tally.stages[stage] for tally in tallies if stage in tally.stages]
        assert together.stages[stage].sum == sum(part.sum for part in parts)
        assert sum(together.stages[stage].counts) == sum(sum(part.counts) for part in parts)
    assert [tally.batch for tally in tallies] == [copy.batch for copy in copies]
    assert total(reversed(tallies)) == together
