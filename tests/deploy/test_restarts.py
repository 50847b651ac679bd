"""Restarts after crashes, and rolling restarts."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml import records
from eventml.backends.redis.errors import DeniedError
from eventml.deploy.workers import restarts, supervisor
from eventml.deploy.workers.reports import HandlerReport, Totals, WorkerReport, WorkerSpec
from eventml.deploy.workers.restarts import crash_counts, failure_cause, restart_delay
from eventml.errors import (
    ConfigError,
    LoginError,
    ModelError,
    ModelNotFoundError,
    RegistrationError,
    TopicNotFoundError,
    UnavailableError,
)
from tests.deploy.service import APPS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.conftest import Serve
    from tests.deploy.oracle import Oracle
    from tests.deploy.service import Service

TIMES = st.floats(0, 1e6)
CRASHES = st.lists(TIMES, max_size=50)


@given(CRASHES, TIMES)
def test_five_counted_crashes_in_a_minute_are_a_crash_loop(crashes: list[float], now: float) -> None:
    recent = [crash for crash in crashes if now - crash < 60]
    assert (restart_delay(crashes, now) is None) == (len(recent) >= 5)


@given(CRASHES, TIMES)
def test_the_delay_depends_on_recent_crashes_only(crashes: list[float], now: float) -> None:
    recent = [crash for crash in crashes if now - crash < 60]
    assert restart_delay(crashes, now) == restart_delay(recent, now)


def test_each_counted_crash_doubles_the_delay_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [restart_delay([0.0] * n, 1) for n in range(6)] == [0.25, 0.25, 0.5, 1.0, 2.0, None]
    monkeypatch.setattr(restarts, "MAX_CRASHES", 50)
    assert [restart_delay([0.0] * n, 1) for n in (6, 7, 49)] == [8.0, 10.0, 10.0]


def test_the_delay_doubles_with_each_failure_of_the_broker_too() -> None:
    assert [restart_delay([], 1, n) for n in (0, 1, 2, 3, 7, 999)] == [0.25, 0.25, 0.5, 1.0, 10.0, 10.0]


@pytest.mark.parametrize(
    ("errors", "first", "later"),
    [
        ([UnavailableError("loading")], False, False),
        ([DeniedError("no right")], True, False),
        ([DeniedError("no right"), UnavailableError("loading")], True, False),
        ([DeniedError("no right"), KeyError()], True, True),
        ([LoginError("wrong password")], True, False),
        ([TopicNotFoundError("deleted")], True, True),
        ([ConfigError("no such setting")], True, True),
        ([ModelNotFoundError("no model")], True, True),
    ],
)
def test_what_the_broker_refuses_counts_only_for_a_worker_that_was_never_ready(
    errors: list[Exception], first: bool, later: bool
) -> None:
    report = WorkerReport(state="failed", cause=failure_cause(errors))
    for before, counts in ((False, first), (True, later)):
        found = crash_counts(report, was_ready=False, killed_from_outside=False, ready_before=before)
        assert found == counts


def failed_function(cause: Exception) -> ModelError:
    error = ModelError("model 'tip': load failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (ModelNotFoundError("nowhere.skops"), True),
        (failed_function(FileNotFoundError("nowhere")), True),
        (failed_function(TimeoutError("a registry of models is away")), False),
        (ModelError("half of the file has been copied"), False),
        (ConfigError("no such setting"), True),
        (RegistrationError("no such parameter"), True),
        (ModuleNotFoundError("no such module"), True),
        (LoginError("the broker is told of a new password later"), False),
        (TopicNotFoundError("it is created later"), False),
        (KeyError("whatever the app raises"), False),
    ],
)
def test_only_what_no_restart_mends_is_permanent(error: Exception, permanent: bool) -> None:
    assert (failure_cause([error]) == "permanent") == permanent


@given(completed=st.integers(0, 2), received=st.integers(0, 2), ready=st.booleans(), killed=st.booleans())
def test_a_crash_without_work_counts_unless_an_idle_worker_was_killed(
    completed: int, received: int, ready: bool, killed: bool
) -> None:
    totals: Totals = {"received": [received], "completed": [completed]}
    report = WorkerReport(state="ready", handlers={"h": HandlerReport(group="g", totals=totals)})
    idle = ready and not received
    assert crash_counts(report, was_ready=ready, killed_from_outside=killed) == (
        not completed and not (idle and killed)
    )


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"MODEL": "damaged.skops"}, "ModelError: damaged.skops is not a complete skops file"),
        ({"BOOT_ABORTS": "1"}, "killed by SIGABRT"),
    ],
)
def test_a_worker_that_cannot_start_stops_the_service(
    env: dict[str, str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "eventml")
    (tmp_path / "damaged.skops").write_bytes(b"half of it has been copied")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(APPS), prepend=os.pathsep)
    for name, value in {"APP": "t", "EVENTML_BACKEND": "memory://", **env}.items():
        monkeypatch.setenv(name, value)
    for module in (restarts, supervisor):
        monkeypatch.setattr(module, "MAX_CRASHES", 3)
    monkeypatch.setattr(restarts, "_FIRST_DELAY", 0.01)
    service = supervisor.Supervisor(
        "t",
        [WorkerSpec(name="worker-1", bus="plain:bus")],
        drain=1,
        print_line=lambda _worker, _line: None,
    )
    assert anyio.run(service.run) == 1
    assert caplog.text.count("; restarting in") == 2
    assert (
        "worker-1 ended 3 times within 60 s without completing an event; giving up. "
        f"The last time: {reason}" in caplog.text
    )


def publish_until_logged(service: Service, oracle: Oracle, text: str) -> None:
    """Keep the service busy until it has logged a text."""

    def publish_more() -> bool:
        oracle.publish(20)
        time.sleep(0.1)
        return text in service.text

    service.until(publish_more)


def versions(oracle: Oracle, numbers: range) -> set[str]:
    """Return the model versions that answered these numbers."""
    return {oracle.answers[str(n)][0].headers[records.MODEL_VERSION] for n in numbers}


def test_sighup_replaces_all_workers_without_a_gap_and_takes_up_a_new_model(
    serve: Serve, oracle: Oracle, tmp_path: Path
) -> None:
    model = tmp_path / "slope"
    model.write_text("1.0")
    service = serve("--workers", "2", env={"MODEL": str(model)})
    service.until_ready()
    before = set(service.workers)

    # A broken model leaves the workers as they are.
    model.write_text("not a number")
    service.send(signal.SIGHUP)
    service.until_logged("its new process did not start: ModelError")
    service.until_logged("rolling restart given up: the other workers keep their processes")
    service.until(lambda: set(service.workers) == before)
    oracle.publish(20)
    oracle.collect(extra=0)

    model.write_text("2.0")
    service.send(signal.SIGHUP)
    publish_until_logged(service, oracle, "all workers have been replaced")
    after = set(service.workers)
    assert len(after) == 2
    assert before.isdisjoint(after)
    first_after = oracle.published
    oracle.publish(100)
    oracle.collect()
    oracle.check()
    [old], [new] = versions(oracle, range(20)), versions(oracle, range(first_after, oracle.published))
    assert (old, new) == ("1.0", "2.0")
    assert service.metric("eventml_model_info", version=new) == 2
    assert service.metric("eventml_model_info", version=old) == 0
    assert service.metric("eventml_rolling_restarts_total") == 1
    # The counters of the old processes are kept.
    service.until(lambda: service.metric("eventml_events_completed_total") == oracle.published)
    assert service.stop() == 0


def test_the_new_process_is_ready_before_the_old_one_stops(serve: Serve) -> None:
    """Loading takes longer than `--silent-after`, which does not count until a worker is ready."""
    service = serve("--workers", "1", "--silent-after", "2", env={"BOOT": "2.5"})
    service.until_ready()
    service.send(signal.SIGHUP)
    while "all workers have been replaced" not in service.text:
        time.sleep(0.05)
        assert service.metric("eventml_worker_state", state="ready") >= 1
        assert service.get("/readyz")[0] == 200
    assert "killing" not in service.text


def test_a_worker_killed_while_it_is_replaced(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "1", env={"BOOT": "1"})
    service.until_ready()
    [old] = service.workers
    service.send(signal.SIGHUP)
    service.until(lambda: len(service.workers) == 2)
    os.kill(old, signal.SIGKILL)
    service.until_logged("its new process is starting")
    oracle.publish(50)
    oracle.collect()
    oracle.check()
    assert len(service.workers) == 1
    assert service.stop() == 0


def test_a_service_stopped_while_a_worker_is_replaced(serve: Serve, oracle: Oracle) -> None:
    """The old process drains already: it gets no second signal, which would abandon its events."""
    service = serve("--workers", "2", env={"MAX_BATCH": "16", "SLEEP": "0.3"})
    service.until_ready()
    oracle.publish(64)
    service.send(signal.SIGHUP)
    service.until_logged("replaces process")
    assert service.stop() == 0, service.text
    serve("--workers", "1")
    oracle.collect()
    oracle.check()
