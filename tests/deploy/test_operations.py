"""The operations port and its metrics."""

from __future__ import annotations

import http.client
import logging
import os
import signal
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from eventml.deploy.workers import operations
from eventml.deploy.workers.logs import LogRateLimit
from eventml.deploy.workers.operations import (
    HostPort,
    answer_operations,
    parse_host_port,
    serve_status,
)
from eventml.deploy.workers.reports import ServiceStatus, WorkerStatus
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from tests.deploy.conftest import Serve
    from tests.deploy.oracle import Oracle


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9999", HostPort("127.0.0.1", 9999)),
        (":9999", HostPort("127.0.0.1", 9999)),
        ("0.0.0.0:80", HostPort("0.0.0.0", 80)),  # noqa: S104 - it is only parsed
        ("[::1]:80", HostPort("::1", 80)),
    ],
)
def test_addresses(text: str, address: HostPort) -> None:
    assert parse_host_port(text) == address


@pytest.mark.parametrize("text", ["", "http", "localhost", "1:", "localhost:99999"])
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write PORT or HOST:PORT"):
        parse_host_port(text)


def test_an_unknown_path_is_answered_with_the_known_ones() -> None:
    status, body, _ = answer_operations("/health", lambda: ServiceStatus(bus="b", workers=[]))
    assert status == 404
    assert b"/livez" in body


def test_livez_names_its_reason() -> None:
    status = ServiceStatus(bus="b", workers=[], stuck="the loop is blocked")
    assert answer_operations("/livez", lambda: status)[:2] == (503, b"the loop is blocked\n")


def test_readyz_names_every_worker_that_is_not_ready() -> None:
    workers = [
        WorkerStatus(name="worker-1", pid=1, state="ready"),
        WorkerStatus(name="worker-2", pid=2, state="waiting", reason="connection refused"),
        WorkerStatus(name="worker-3", pid=3, state="ready", connected=False),
        # One process replaces the other: the worker is ready.
        WorkerStatus(name="worker-4", pid=4, state="draining"),
        WorkerStatus(name="worker-4", pid=5, state="ready"),
    ]
    status, body, _ = answer_operations("/readyz", lambda: ServiceStatus(bus="b", workers=workers))
    assert status == 503
    assert body.decode().splitlines() == [
        "worker-2 is waiting: connection refused",
        "worker-3 does not reach its broker",
    ]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_an_unexpected_error_is_logged_once_and_answered_with_500(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken_status() -> ServiceStatus:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(operations.log, "filters", [LogRateLimit(exempt=None)])
    with serve_status(broken_status, HostPort(port=0)) as address:
        for _ in range(3):
            connection = http.client.HTTPConnection(address.host, address.port, timeout=5)
            connection.request("GET", path)
            response = connection.getresponse()
            assert (response.status, b"internal error" in response.read()) == (500, True)
            connection.close()
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert path in record.message
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_counters_are_totals_of_all_workers_and_outlive_their_processes(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "2", env={"MAX_BATCH": "8", "SLEEP": "0.01"})
    service.until_ready()
    assert service.get("/livez") == (200, "ok\n")
    oracle.publish(400)
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
    assert service.metric("eventml_events_in_flight") == 0
    service.until(lambda: service.metric("eventml_model_info") == 2)  # the new process has reported its model
    families = {family.name for family in text_string_to_metric_families(service.get("/metrics")[1])}
    assert {"eventml_events_received", "eventml_latency_seconds", "eventml_lag", "eventml_info"} <= families


def test_a_service_is_not_ready_while_its_lag_exceeds_max_lag(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "1", "--max-lag", "100", env={"MAX_BATCH": "8", "SLEEP": "0.05"})
    service.until_ready()
    oracle.publish(500)
    service.until(lambda: "events, more than --max-lag 100" in service.get("/readyz")[1])
    service.until(lambda: service.get("/readyz")[0] == 200)
