"""When a worker counts as dead or hung, and how its lag is read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast, get_args

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.workers import health
from eventml.deploy.workers.health import (
    HealthLimits,
    LagMonitor,
    WorkerHealth,
    kill_reason,
    replace_reason,
)
from eventml.deploy.workers.ipc import HandlerProgress, WorkerState
from eventml.deploy.workers.logs import LogRateLimit
from eventml.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.deploy.conftest import Serve
    from tests.deploy.oracle import Oracle

STATES: Sequence[WorkerState] = get_args(WorkerState)
LIMITS = HealthLimits(boot_grace=60, silent_after=10, stuck_after=100, hung_after=50)
PROGRESS = st.builds(
    HandlerProgress,
    handler=st.sampled_from(["duration", "tip"]),
    in_flight=st.integers(0, 3),
    quiet=st.floats(0, 300),
    oldest=st.floats(0, 300),
    hung=st.integers(0, 2),
    hung_for=st.floats(0, 100),
)


def worker(
    state: WorkerState, progress: list[HandlerProgress], *, since: float = 0, reported: float
) -> WorkerHealth:
    return WorkerHealth(state=state, since=since, reported=reported, progress=progress)


@given(st.floats(0, 1000), st.floats(0, 1000), st.lists(PROGRESS))
def test_a_starting_worker_is_bound_by_the_boot_grace_alone(
    since: float, reported: float, progress: list[HandlerProgress]
) -> None:
    reason = kill_reason(worker("starting", progress, since=since, reported=reported), LIMITS, 1000)
    assert (reason is not None) == (1000 - since > 60)


@given(st.sampled_from(["ready", "waiting"]), st.floats(990, 1000), st.lists(PROGRESS))
def test_a_worker_is_killed_only_for_events_in_flight_without_progress(
    state: WorkerState, reported: float, progress: list[HandlerProgress]
) -> None:
    stuck = any(handler.in_flight and handler.quiet + 1000 - reported > 100 for handler in progress)
    assert (kill_reason(worker(state, progress, reported=reported), LIMITS, 1000) is not None) == stuck


@given(st.floats(10.001, 1000), st.lists(PROGRESS))
def test_a_silent_worker_is_killed(silence: float, progress: list[HandlerProgress]) -> None:
    reason = kill_reason(worker("ready", progress, reported=1000 - silence), LIMITS, 1000)
    assert reason is not None
    assert "event loop" in reason


@given(st.sampled_from(["draining", "failed"]), st.floats(0, 1000), st.lists(PROGRESS))
def test_a_worker_that_ends_has_a_deadline_of_its_own(
    state: WorkerState, reported: float, progress: list[HandlerProgress]
) -> None:
    assert kill_reason(worker(state, progress, reported=reported), LIMITS, 1000) is None


@given(st.sampled_from(STATES), st.floats(990, 1000), st.lists(PROGRESS))
def test_a_worker_is_replaced_only_for_hung_threads(
    state: WorkerState, reported: float, progress: list[HandlerProgress]
) -> None:
    reason = replace_reason(worker(state, progress, reported=reported), LIMITS, 1000)
    hung = [handler for handler in progress if handler.hung and handler.hung_for + 1000 - reported > 50]
    assert (reason is not None) == (state == "ready" and bool(hung))
    assert reason is None or hung[0].handler in reason


class BrokenLag:
    """A worker whose lag cannot be read."""

    def __init__(self, error: Exception) -> None:
        self.ready = anyio.Event()
        self.ready.set()
        self._error = error

    async def lag(self) -> dict[str, int | None]:
        raise self._error


@pytest.mark.parametrize(
    ("error", "connected"), [(UnavailableError("no broker"), False), (KeyError("tip"), True)]
)
def test_an_error_in_reading_the_lag_is_logged_and_the_lag_is_unknown(
    error: Exception, connected: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "_LAG_INTERVAL", 0.001)
    monkeypatch.setattr(health._lag_log, "filters", [LogRateLimit(exempt=None)])
    monitor = LagMonitor(cast("Any", BrokenLag(error)))

    async def run() -> None:
        with anyio.move_on_after(0.1):
            await monitor.run()

    anyio.run(run)
    assert (monitor.lags, monitor.connected) == ({}, connected)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"the lag is unknown: {type(error).__name__}" in record.message
    assert bool(record.exc_info) == connected


def test_livez_fails_while_the_event_loop_of_a_single_process_is_blocked(
    serve: Serve, oracle: Oracle
) -> None:
    service = serve("--only", "echo", "--silent-after", "2", env={"SECOND": "1"})
    service.until_logged("running echo")
    oracle.publish(10)
    service.until(lambda: service.metric("eventml_events_completed_total") == 10)
    assert service.get("/readyz") == service.get("/livez") == (200, "ok\n")
    oracle.publish(1, do="block")
    service.until(lambda: "something blocks its event loop" in service.get("/livez")[1])


def test_a_single_process_stops_on_sigterm_with_its_operations_port(serve: Serve, oracle: Oracle) -> None:
    service = serve()
    service.until_logged("running answer")
    oracle.publish(10)
    service.until(lambda: service.metric("eventml_events_completed_total") == 10)
    assert service.stop() == 0
