"""Workers in processes of their own, watched over: what an operator sees of it."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deploy.service import alive, command

if TYPE_CHECKING:
    from tests.deploy.conftest import Serve
    from tests.deploy.events import Oracle


def test_workers_share_the_work_and_stop_together(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "3", env={"MAX_BATCH": "8", "SLEEP": "0.02"})
    service.until_ready()
    workers = service.workers
    oracle.publish(600)
    oracle.collect()
    oracle.check()
    assert set(oracle.pids) <= set(workers)
    assert len(oracle.pids) > 1
    assert service.stop() == 0
    assert not any(map(alive, workers))


def test_each_line_says_whose_it_is(serve: Serve) -> None:
    service = serve("--workers", "2")
    service.until_ready()
    service.stop()
    assert re.search(r"^worker-1 +\| .* INFO ready: answer$", service.text, re.MULTILINE)
    assert re.search(r"^worker-2 +\| .* INFO ready: answer$", service.text, re.MULTILINE)


def test_a_number_for_each_handler(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "answer=2,echo=1", env={"SECOND": "1"})
    service.until_ready()
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


def test_a_handler_that_nobody_runs_is_named(serve: Serve) -> None:
    service = serve("--workers", "echo=1", env={"SECOND": "1"})
    service.until_ready()
    assert "answer is not run here" in service.text


def test_only_some_handlers(serve: Serve) -> None:
    service = serve("--workers", "2", "--only", "echo", env={"SECOND": "1"})
    service.until_ready()
    assert len(re.findall("ready: echo$", service.text, re.MULTILINE)) == 2


def test_memory_is_refused_with_what_to_do(serve: Serve) -> None:
    service = serve("--workers", "2", env={"EVENTML_BACKEND": "memory://"})
    assert service.wait() == 1
    assert "--backend redis://" in service.text
    assert "Traceback" not in service.text


@pytest.mark.parametrize(("said", "meant"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3")])
def test_numeric_libraries_have_one_thread_unless_told_otherwise(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, said: dict[str, str], meant: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    service = serve("--workers", "1", env=said)
    service.until_ready()
    [worker] = service.workers
    environment = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    assert f"OMP_NUM_THREADS={meant}".encode() in environment


def test_sigterm_under_load_loses_and_repeats_nothing(serve: Serve, oracle: Oracle) -> None:
    slow = {"MAX_BATCH": "16", "SLEEP": "0.05"}
    service = serve("--workers", "2", env=slow)
    service.until_ready()
    oracle.publish(2000)
    service.until(lambda: service.metric("eventml_events_completed_total") > 100)
    assert service.stop() == 0
    oracle.collect(0)
    assert 100 < len(oracle.answers) < 2000
    serve("--workers", "2", env={"MAX_BATCH": "64"}).until_ready()
    oracle.collect()
    oracle.check()


def test_a_killed_worker_is_replaced_and_its_work_done(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "2", env={"MAX_BATCH": "16", "SLEEP": "0.02"})
    service.until_ready()
    oracle.publish(1500)
    service.until(lambda: service.metric("eventml_events_completed_total") > 100)
    victim = service.workers[0]
    os.kill(victim, signal.SIGKILL)
    service.until_logged(r"ended: killed by SIGKILL .*; again in")
    oracle.collect()
    oracle.check()
    service.until(lambda: len(service.workers) == 2)
    assert victim not in service.workers
    assert service.metric("eventml_worker_restarts_total") == 1
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"MODEL": "nowhere.skops"}, "ModelNotFoundError: there is no model at nowhere.skops"),
        ({"BOOT_ABORTS": "1"}, "killed by SIGABRT"),
    ],
)
def test_a_worker_that_cannot_start_opens_the_breaker(serve: Serve, env: dict[str, str], why: str) -> None:
    service = serve("--workers", "1", env=env)
    assert service.wait() == 1
    assert len(re.findall("; again in", service.text)) == 4
    assert (
        f"worker-1 ended 5 times within 60 s and had finished nothing; giving up. The last time: {why}"
        in (service.text)
    )


def test_an_event_that_kills_workers_is_set_aside_and_the_service_goes_on(
    serve: Serve, oracle: Oracle
) -> None:
    service = serve("--workers", "2", env={"MAX_BATCH": "16"})
    service.until_ready()
    oracle.publish(1, do="die")

    def set_aside() -> bool:
        oracle.publish(10)
        time.sleep(0.1)
        return service.metric("eventml_dead_letters_total") == 1

    service.until(set_aside, 60)
    assert service.metric("eventml_worker_restarts_total") >= 1
    oracle.collect(oracle.published - 1)
    assert (oracle.lost, oracle.repeated) == ([0], {})
    assert service.stop() == 0


def test_a_slow_model_is_given_time(serve: Serve) -> None:
    service = serve("--workers", "1", "--silent-after", "2", env={"BOOT": "4"})
    service.until_ready()
    assert "killing" not in service.text


def test_one_that_is_too_slow_is_killed_and_says_where_it_hung(serve: Serve) -> None:
    service = serve("--workers", "1", "--boot-grace", "1.5", env={"BOOT": "60"})
    service.until_logged("not ready within 1.5 s; .*killing it")
    service.until_logged("plain.py.* in model")
    service.until_logged("again in")
    assert service.get("/readyz")[0] == 503


def test_a_call_that_does_not_return_is_ended(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "2", "--stuck-after", "2")
    service.until_ready()
    oracle.publish(20)
    oracle.collect()
    oracle.publish(1, do="hang")
    oracle.published -= 1
    service.until_logged("answer has got nowhere for .*, with 1 events in hand.*killing it")
    service.until_logged("plain.py.* in answer")
    assert service.stop(40) in {0, 1}  # the event hangs the next worker in turn


def test_a_thread_that_cannot_be_stopped_is_replaced_with_its_worker(serve: Serve, oracle: Oracle) -> None:
    """In good order: what its worker has in hand besides is finished, and none of it is done again."""
    patience = {"TIMEOUT": "0.5", "RETRIES": "0"}
    service = serve("--workers", "2", "--hung-after", "2", env={**patience, "MAX_BATCH": "8"})
    service.until_ready()
    workers = set(service.workers)
    oracle.publish(1, do="hang")
    service.until(lambda: service.metric("eventml_dead_letters_total") == 1)
    assert service.metric("eventml_calls_abandoned_total") >= 1
    while len(workers & set(service.workers)) == 2:
        oracle.publish(20)
        time.sleep(0.1)
    service.until_logged(r"answer has 1 threads that run on past its timeout .*; replacing it")
    service.until_logged("takes over from")
    oracle.collect(oracle.published - 1)
    assert (oracle.lost, oracle.repeated) == ([0], {})
    service.until(lambda: len(service.workers) == 2)
    assert len(workers & set(service.workers)) == 1, "the other one is left alone"
    assert service.metric("eventml_worker_restarts_total") == 0
    assert service.stop() == 0


def test_a_thread_that_ends_by_itself_costs_nothing(serve: Serve, oracle: Oracle) -> None:
    service = serve(
        "--workers", "1", "--hung-after", "1", env={"TIMEOUT": "0.1", "RETRIES": "0", "SLEEP": "0.6"}
    )
    service.until_ready()
    workers = service.workers
    oracle.publish(1)
    service.until(lambda: service.metric("eventml_dead_letters_total") == 1)
    time.sleep(3)  # past `--hung-after`, and the looks
    assert service.workers == workers
    assert "replacing" not in service.text


def test_a_blocked_event_loop_is_ended(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "1", "--only", "echo", "--silent-after", "2", env={"SECOND": "1"})
    service.until_ready()
    oracle.publish(1, do="block")
    service.until_logged("no sign of life for .*: something blocks its event loop; killing it")
    service.until_logged("plain.py.* in echo")


def test_a_hung_handler_does_not_hold_up_the_end(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "2", env={"EVENTML_DRAIN": "1"})
    service.until_ready()
    oracle.publish(10)
    oracle.collect()
    oracle.publish(1, do="hang")
    service.until(lambda: service.metric("eventml_in_hand") == 1)
    workers = service.workers
    begun = time.monotonic()
    assert service.stop() == 1
    assert time.monotonic() - begun < 1 + 5 + 4  # drain, leaving, and a slow machine
    assert "left something unfinished" in service.text
    assert not any(map(alive, workers))


def test_a_second_signal_gives_up_on_what_is_in_hand(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "1")
    service.until_ready()
    oracle.publish(1, do="hang")
    service.until(lambda: service.metric("eventml_in_hand") == 1)
    service.send(signal.SIGTERM)
    service.until_logged("finishing 1 events in hand")
    assert service.stop(15) == 1  # the drain alone would take 30 s


def test_a_killed_supervisor_leaves_no_orphans(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "3")
    service.until_ready()
    oracle.publish(1, do="hang")
    service.until(lambda: service.metric("eventml_in_hand") == 1)
    workers = service.workers
    os.kill(workers[0], signal.SIGSTOP)
    service.send(signal.SIGKILL)
    service.wait()
    deadline = time.monotonic() + 2
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, [command(pid) for pid in workers if alive(pid)]
        time.sleep(0.02)


def test_workers_wait_for_a_broker_that_is_not_there_yet(serve: Serve) -> None:
    service = serve("--workers", "1", env={"EVENTML_BACKEND": "redis://127.0.0.1:1?connect_timeout=0.2"})
    service.until_logged("operations port: ")
    service.until(lambda: "waiting" in service.get("/readyz")[1])
    assert service.get("/readyz")[0] == 503
    assert service.get("/livez")[0] == 200
    assert service.stop() == 0


def test_until_idle_ends_the_service(serve: Serve, oracle: Oracle) -> None:
    oracle.publish(100)
    service = serve("--workers", "2", "--until-idle", "0.5")
    assert service.wait() == 0
    oracle.collect()
    oracle.check()
