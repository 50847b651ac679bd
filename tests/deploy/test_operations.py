"""The operations port and the logs: what machines that watch are told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from eventml.deploy.workers.operations import (
    DEFAULT_PORT,
    HostPort,
    LOOPBACK,
    OperationsEndpoints,
    parse_host_port,
)
from eventml.deploy.workers.status import ServiceStatus, WorkerStatus
from eventml.errors import ConfigError
from tests.deploy.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.conftest import Serve
    from tests.deploy.events import Oracle


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("9999", HostPort("127.0.0.1", 9999)),
        (":9999", HostPort("127.0.0.1", 9999)),
        ("0.0.0.0:80", HostPort("0.0.0.0", 80)),  # noqa: S104 - it is only read
        ("[::1]:80", HostPort("::1", 80)),
    ],
)
def test_addresses(said: str, meant: HostPort) -> None:
    assert parse_host_port(said) == meant


@pytest.mark.parametrize("said", ["", "http", "localhost", "1:", "localhost:99999"])
def test_what_is_no_address_is_refused(said: str) -> None:
    with pytest.raises(ConfigError, match="operations port"):
        parse_host_port(said)


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    assert parse_host_port("9464").host == "127.0.0.1"


def test_an_unknown_path_says_which_there_are() -> None:
    status, body, _ = OperationsEndpoints(lambda: ServiceStatus(bus="b", workers=[])).answer("/health")
    assert status == 404
    assert b"/livez" in body


def test_livez_says_why_not() -> None:
    operations = OperationsEndpoints(lambda: ServiceStatus(bus="b", workers=[], stuck="the loop is blocked"))
    assert operations.answer("/livez")[:2] == (503, b"the loop is blocked\n")


def test_readyz_names_every_worker_that_is_not() -> None:
    workers = [
        WorkerStatus(name="worker-1", pid=1, state="ready"),
        WorkerStatus(name="worker-2", pid=2, state="waiting", reason="nobody answers"),
        WorkerStatus(name="worker-3", pid=3, state="ready", connected=False),
        # One takes over from the other: the place is filled.
        WorkerStatus(name="worker-4", pid=4, state="draining"),
        WorkerStatus(name="worker-4", pid=5, state="ready"),
    ]
    status, body, _ = OperationsEndpoints(lambda: ServiceStatus(bus="b", workers=workers)).answer("/readyz")
    assert status == 503
    assert body.decode().splitlines() == [
        "worker-2 is waiting: nobody answers",
        "worker-3 does not reach its broker",
    ]


def test_totals_are_of_all_workers_and_outlive_them(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "2", env={"MAX_BATCH": "8", "SLEEP": "0.01"})
    service.until_ready()
    assert service.get("/livez") == (200, "ok\n")
    oracle.publish(400)
    oracle.collect()
    service.until(lambda: service.metric("eventml_events_completed_total", handler="answer") == 400)
    os.kill(service.workers[0], signal.SIGKILL)
    service.until(lambda: service.metric("eventml_worker_restarts_total") == 1)
    assert service.metric("eventml_events_completed_total") == 400
    oracle.publish(100)
    service.until(lambda: service.metric("eventml_events_completed_total") == 500)
    assert service.metric("eventml_events_published_total") == 500
    assert service.metric("eventml_latency_seconds_count") == pytest.approx(500)
    assert service.metric("eventml_batch_size_sum") == 500
    assert service.metric("eventml_batch_size_count") == service.metric("eventml_calls_total")
    for stage in ("receive", "decode", "call", "encode", "complete"):
        assert service.metric("eventml_stage_seconds_count", stage=stage) > 0
    service.until(lambda: service.metric("eventml_lag") == 0)
    assert service.metric("eventml_in_hand") == 0
    service.until(lambda: service.metric("eventml_model_info") == 2)  # the new worker has said so


def test_the_text_is_what_prometheus_reads(serve: Serve) -> None:
    service = serve("--workers", "1")
    service.until_ready()
    families = {family.name for family in text_string_to_metric_families(service.get("/metrics")[1])}
    assert {"eventml_events_received", "eventml_latency_seconds", "eventml_lag", "eventml_info"} <= families


def test_a_group_too_far_behind_is_not_ready(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "1", "--max-lag", "100", env={"MAX_BATCH": "8", "SLEEP": "0.05"})
    service.until_ready()
    oracle.publish(600)
    service.until(lambda: "events behind, more than 100" in service.get("/readyz")[1])
    service.until(lambda: service.get("/readyz")[0] == 200)


def test_a_taken_port_is_refused_with_what_to_do(serve: Serve) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = serve("--workers", "1", "--operations", str(taken.getsockname()[1]))
        assert service.wait() == 1
    assert "choose another with --operations" in service.text


def test_one_process_has_the_port_too(serve: Serve, oracle: Oracle) -> None:
    service = serve()
    service.until_logged("running answer")
    oracle.publish(10)
    service.until(lambda: service.metric("eventml_events_completed_total") == 10)
    assert service.get("/readyz") == (200, "ok\n")
    assert service.get("/livez") == (200, "ok\n")
    assert service.stop() == 0


def test_livez_tells_of_a_blocked_event_loop_in_one_process(serve: Serve, oracle: Oracle) -> None:
    service = serve("--only", "echo", "--silent-after", "2", env={"SECOND": "1"})
    service.until_logged("running echo")
    assert service.get("/livez")[0] == 200
    oracle.publish(1, do="block")
    service.until(lambda: "something blocks its event loop" in service.get("/livez")[1])


def test_json_logs_are_json_to_the_last_line(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "1", "--log-format", "json", "--stuck-after", "2")
    service.until_ready()
    oracle.publish(1, do="hang")
    service.until_logged("got nowhere")
    service.until_logged("in answer")  # the stacks, which are no log records
    service.kill()
    logged = [json.loads(line) for line in service.text.splitlines()]
    assert {line["worker"] for line in logged} == {"supervisor", "worker-1"}
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in logged)


def test_the_default_port_is_given_up_if_somebody_has_it(
    url: str, name: str, tmp_path: Path, oracle: Oracle
) -> None:
    """Two services on a machine both run; the second says that nobody can watch it there."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # somebody else has it: as good
            taken.bind((LOOPBACK, DEFAULT_PORT))
            taken.listen()
        service = Service(
            tmp_path / "log", "--workers", "1", app="plain:bus", env={"APP": name, "EVENTML_BACKEND": url}
        )
        try:
            service.until_logged("choose another with --operations")
            service.until_logged("ready: ")
            assert "WARNING" in service.text
            assert "operations port: http" not in service.text
            assert service.stop() == 0
        finally:
            service.kill()
