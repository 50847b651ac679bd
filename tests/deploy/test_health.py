"""When a worker counts as dead or hung, and how its lag is read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast, get_args

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.workers import readiness
from eventml.deploy.workers.readiness import LagMonitor
from eventml.deploy.workers.reports import HandlerReport, WorkerState, WorkerStatus
from eventml.deploy.workers.restarts import HealthLimits, kill_reason, replace_reason
from eventml.errors import UnavailableError
from eventml.runtime import OutageLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.deploy.conftest import Serve
    from tests.deploy.oracle import Oracle

STATES: Sequence[WorkerState] = get_args(WorkerState)
LIMITS = HealthLimits(boot_grace=60, silent_after=10, stuck_after=100, hung_after=50)
HANDLERS = st.dictionaries(
    st.sampled_from(["duration", "tip"]),
    st.builds(
        HandlerReport,
        group=st.just("g"),
        in_flight=st.integers(0, 3),
        quiet=st.floats(0, 300),
        oldest=st.floats(0, 300),
        hung=st.integers(0, 2),
        hung_for=st.floats(0, 100),
    ),
)
Handlers = dict[str, HandlerReport]


def worker(
    state: WorkerState, handlers: Handlers, *, unchanged: float = 1000, silence: float
) -> WorkerStatus:
    return WorkerStatus(
        name="worker-1", pid=1, state=state, handlers=handlers, unchanged=unchanged, silence=silence
    )


@given(st.floats(0, 1000), st.floats(0, 1000), HANDLERS)
def test_a_starting_worker_is_bound_by_the_boot_grace_alone(
    unchanged: float, silence: float, handlers: Handlers
) -> None:
    reason = kill_reason(worker("starting", handlers, unchanged=unchanged, silence=silence), LIMITS)
    assert (reason is not None) == (unchanged > 60)


@given(st.sampled_from(["ready", "waiting"]), st.floats(0, 10), HANDLERS)
def test_a_worker_is_killed_only_for_events_in_flight_without_progress(
    state: WorkerState, silence: float, handlers: Handlers
) -> None:
    stuck = any(handler.in_flight and handler.quiet + silence > 100 for handler in handlers.values())
    assert (kill_reason(worker(state, handlers, silence=silence), LIMITS) is not None) == stuck


@given(st.floats(10.001, 1000), HANDLERS)
def test_a_silent_worker_is_killed(silence: float, handlers: Handlers) -> None:
    reason = kill_reason(worker("ready", handlers, silence=silence), LIMITS)
    assert reason is not None
    assert "event loop" in reason


@given(st.sampled_from(["draining", "failed"]), st.floats(0, 1000), HANDLERS)
def test_a_worker_that_ends_has_a_deadline_of_its_own(
    state: WorkerState, silence: float, handlers: Handlers
) -> None:
    assert kill_reason(worker(state, handlers, silence=silence), LIMITS) is None


@given(st.sampled_from(STATES), st.floats(0, 10), HANDLERS)
def test_a_worker_is_replaced_only_for_hung_threads(
    state: WorkerState, silence: float, handlers: Handlers
) -> None:
    reason = replace_reason(worker(state, handlers, silence=silence), LIMITS)
    hung = [name for name, handler in handlers.items() if handler.hung and handler.hung_for + silence > 50]
    assert (reason is not None) == (state == "ready" and bool(hung))
    assert reason is None or hung[0] in reason


class BrokenLag:
    """A worker whose lag cannot be read; without an error, its broker does not answer."""

    def __init__(self, error: Exception | None) -> None:
        self.ready, self.outages = anyio.Event(), OutageLog()
        self.ready.set()
        self._error = error

    async def lag(self) -> dict[str, int | None]:
        if self._error is not None:
            raise self._error
        await anyio.sleep_forever()
        return {}


@pytest.mark.parametrize(
    ("error", "connected"), [(UnavailableError("no broker"), False), (KeyError("tip"), True), (None, False)]
)
def test_an_error_in_reading_the_lag_is_logged_once_and_the_lag_is_unknown(
    error: Exception | None,
    connected: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(readiness, "_LAG_INTERVAL", 0.001)
    monkeypatch.setattr(readiness, "_LAG_TIMEOUT", 0.001)
    monitor = LagMonitor(cast("Any", BrokenLag(error)))

    async def run() -> None:
        with anyio.move_on_after(0.1):
            await monitor.run()

    anyio.run(run)
    assert (monitor.lags, monitor.connected) == ({}, connected)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    expected = "the lag is unknown: KeyError" if connected else "reaching the broker fails and is repeated"
    assert expected in record.message
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
