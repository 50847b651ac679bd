"""Worker processes under a supervisor, as an operator sees them."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.deploy.service import alive, command_line

if TYPE_CHECKING:
    import pytest

    from tests.deploy.conftest import Serve
    from tests.deploy.oracle import Oracle
    from tests.deploy.service import Service


def environment(pid: int) -> list[str]:
    """Return the environment variables of a process."""
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def wait_until_ended(pids: list[int], seconds: float) -> None:
    """Wait until these processes have ended."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, [command_line(pid) for pid in pids if alive(pid)]
        time.sleep(0.02)


def hang(service: Service, oracle: Oracle) -> None:
    """Publish an event on which the handler hangs, and wait until it is in flight."""
    oracle.publish(1, do="hang")
    service.until(lambda: service.metric("eventml_events_in_flight") == 1)


def test_workers_share_the_events_and_stop_together(
    serve: Serve, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # `make test` sets it
    service = serve("--workers", "3", env={"MAX_BATCH": "8", "SLEEP": "0.02"})
    service.until_ready()
    workers = service.workers
    assert "OMP_NUM_THREADS=1" in environment(workers[0])
    oracle.publish(600)
    oracle.collect()
    oracle.check()
    assert set(oracle.pids) <= set(workers)
    assert len(oracle.pids) > 1
    assert service.stop() == 0
    assert not any(map(alive, workers))
    for name in ("worker-1", "worker-2", "worker-3"):
        assert re.search(rf"^{name}   \| .* INFO ready: answer$", service.text, re.MULTILINE)


def test_workers_call_the_app_factory_and_use_the_profile(
    serve: Serve, oracle: Oracle, url: str, tmp_path: Path
) -> None:
    """The options of the command reach the workers' processes."""
    file = tmp_path / "service.toml"
    file.write_text(f'backend = "redis://127.0.0.1:1"\n[profile.test]\nbackend = "{url}"\n')
    options = ("--workers", "2", "--config", str(file), "--profile", "test")
    service = serve(*options, app="plain:make_bus()", env={"EVENTML_BACKEND": ""})
    service.until_ready()
    oracle.publish(100)
    oracle.collect()
    oracle.check()
    assert service.stop() == 0


def test_a_number_of_workers_for_each_handler(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "answer=2,echo=1", env={"SECOND": "1", "OMP_NUM_THREADS": "3"})
    service.until_ready()
    assert "OMP_NUM_THREADS=3" in environment(service.workers[0])
    assert {
        service.metric("eventml_worker_state", worker=w, state="ready") for w in ("answer-1", "answer-2")
    } == {1}
    oracle.publish(50)
    service.until(lambda: service.metric("eventml_events_completed_total", handler="echo") == 50)
    service.until(lambda: service.metric("eventml_events_completed_total", handler="answer") == 50)
    oracle.collect()
    assert len(service.workers) == 3
    assert len(set(service.workers) - set(oracle.pids)) >= 1
    assert service.stop() == 0


def test_sigterm_under_load_loses_and_repeats_nothing(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "2", env={"MAX_BATCH": "16", "SLEEP": "0.05"})
    service.until_ready()
    oracle.publish(2000)
    service.until(lambda: service.metric("eventml_events_completed_total") > 100)
    assert service.stop() == 0
    oracle.collect(0)
    assert 100 < len(oracle.answers) < 2000
    serve("--workers", "1")
    oracle.collect()
    oracle.check()


def test_a_killed_worker_is_restarted_and_its_events_are_handled(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "2", env={"MAX_BATCH": "16", "SLEEP": "0.02"})
    service.until_ready()
    oracle.publish(1500)
    service.until(lambda: service.metric("eventml_events_completed_total") > 100)
    victim = service.workers[0]
    os.kill(victim, signal.SIGKILL)
    service.until_logged(r"ended: killed by SIGKILL .*; restarting in")
    oracle.collect()
    oracle.check()
    service.until(lambda: len(service.workers) == 2)
    assert victim not in service.workers
    assert service.metric("eventml_worker_restarts_total") == 1
    assert service.stop() == 0


def test_a_poison_event_becomes_a_dead_letter_and_the_service_goes_on(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "2", env={"MAX_BATCH": "16", "MAX_DELIVERIES": "3"})
    service.until_ready()
    oracle.publish(1, do="die")

    def is_dead_letter() -> bool:
        oracle.publish(10)
        time.sleep(0.1)
        return service.metric("eventml_dead_letters_total") == 1

    service.until(is_dead_letter, 60)
    assert service.metric("eventml_worker_restarts_total") >= 1
    oracle.collect(oracle.published - 1)
    assert (oracle.lost, oracle.repeated) == ([0], {})
    assert service.stop() == 0


def test_a_worker_that_is_not_ready_in_time_is_killed_and_shows_where_it_hung(serve: Serve) -> None:
    service = serve("--workers", "1", "--boot-grace", "4", env={"BOOT": "60", "EVENTML_BACKEND": "memory://"})
    service.until_logged("not ready within 4 s; .*killing it")
    service.until_logged("plain.py.* in model")
    service.until_logged("restarting in")
    assert service.get("/readyz")[0] == 503


def test_a_worker_with_a_hung_thread_is_replaced_and_no_event_is_repeated(
    serve: Serve, oracle: Oracle
) -> None:
    env = {"TIMEOUT": "0.5", "RETRIES": "0", "MAX_BATCH": "8"}
    service = serve("--workers", "2", "--hung-after", "1", env=env)
    service.until_ready()
    workers = set(service.workers)
    oracle.publish(1, do="hang")
    service.until(lambda: service.metric("eventml_dead_letters_total") == 1)
    assert service.metric("eventml_calls_abandoned_total") >= 1
    while len(workers & set(service.workers)) == 2:
        oracle.publish(20)
        time.sleep(0.1)
    service.until_logged(r"answer has 1 threads that still run after its timeout .*; replacing it")
    service.until_logged("replaces process")
    oracle.collect(oracle.published - 1)
    assert (oracle.lost, oracle.repeated) == ([0], {})
    service.until(lambda: len(service.workers) == 2)
    assert len(workers & set(service.workers)) == 1, "the other worker keeps its process"
    assert service.metric("eventml_worker_restarts_total") == 0
    assert service.stop() == 0


def test_a_thread_that_ends_after_its_timeout_is_not_hung(serve: Serve, oracle: Oracle) -> None:
    env = {"TIMEOUT": "0.1", "RETRIES": "0", "SLEEP": "0.6"}
    service = serve("--workers", "1", "--hung-after", "1", env=env)
    service.until_ready()
    workers = service.workers
    oracle.publish(1)
    service.until(lambda: service.metric("eventml_dead_letters_total") == 1)
    time.sleep(2.2)  # `--hung-after`, a report and a check
    assert service.workers == workers
    assert "replacing" not in service.text


def test_a_worker_with_a_blocked_event_loop_is_killed(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "1", "--only", "echo", "--silent-after", "2", env={"SECOND": "1"})
    service.until_ready()
    assert "handler answer is not run by this service" in service.text
    assert re.search(r"ready: echo$", service.text, re.MULTILINE)
    oracle.publish(1, do="block")
    service.until_logged("no report for .*: something blocks its event loop; killing it")
    service.until_logged("plain.py.* in echo")


def test_a_hung_handler_does_not_delay_the_stop_beyond_the_drain(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "1", env={"EVENTML_DRAIN": "0.5"})
    service.until_ready()
    hang(service, oracle)
    workers = service.workers
    begun = time.monotonic()
    assert service.stop() == 1
    assert time.monotonic() - begun < 0.5 + 5 + 4  # drain, exit time, and a slow machine
    assert "left events unfinished" in service.text
    assert not any(map(alive, workers))


def test_a_second_signal_abandons_the_events_in_flight(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "1")
    service.until_ready()
    hang(service, oracle)
    service.send(signal.SIGTERM)
    service.until_logged("finishing 1 events in flight")
    assert service.stop(15) == 1  # the drain alone would take 30 s
    assert "abandoning 1 events in flight" in service.text


def test_workers_do_not_outlive_a_killed_supervisor(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "2")
    service.until_ready()
    hang(service, oracle)
    workers = service.workers
    os.kill(workers[0], signal.SIGSTOP)
    service.send(signal.SIGKILL)
    service.wait()
    wait_until_ended(workers, 2)


def test_workers_wait_for_a_broker_that_is_away(serve: Serve) -> None:
    service = serve("--workers", "1", env={"EVENTML_BACKEND": "redis://127.0.0.1:1?timeout=0.2"})
    service.until_logged("operations port: ")
    service.until(lambda: "waiting" in service.get("/readyz")[1])
    assert service.get("/readyz")[0] == 503
    assert service.get("/livez")[0] == 200
    assert service.stop() == 0


def test_until_idle_ends_the_service(serve: Serve, oracle: Oracle) -> None:
    oracle.publish(100)
    service = serve("--workers", "2", "--until-idle", "0.5")
    assert service.wait() == 0
    assert "WARNING" not in service.text
    oracle.collect()
    oracle.check()
