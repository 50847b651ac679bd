"""The operations port and its metrics."""

from __future__ import annotations

import http.client
import logging
import os
import re
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from eventml.deploy.workers import http_server, operations
from eventml.deploy.workers.http_server import HostPort, parse_host_port
from eventml.deploy.workers.logs import LogRateLimit
from eventml.deploy.workers.operations import answer_operations, serve_status
from eventml.deploy.workers.reports import ServiceStatus, WorkerStatus
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.fixture(scope="module")
def port() -> Iterator[HostPort]:
    with serve_status(lambda: ServiceStatus(bus="b", workers=[]), HostPort(port=0)) as address:
        yield address


def connect(address: HostPort) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=30)


def exchange(address: HostPort, *parts: bytes) -> bytes:
    """Send the parts of a request, and return all that is answered until the connection is closed."""
    received = b""
    with connect(address) as client, suppress(ConnectionError):
        for part in parts:
            client.sendall(part)
        while part := client.recv(65_536):
            received += part
    return received


LOOPBACK_NAMES = ["127.0.0.1", "127.0.0.1:9464", "127.9.9.9", "localhost", "LOCALHOST:1", "[::1]", "[::1]:80"]
OTHER_NAMES = [
    *(
        "rebound.example",
        "rebound.example:9464",
        "127.0.0.1.example",
        "localhost.example",
    ),
    *("0.0.0.1", "192.168.0.7:9464", "127.0.0.1@example", "127.0.0.1:80@example", "[::1].example", "::1", ""),
    *("[::ffff:10.0.0.1]", "2130706433", "127.1", "localhost:x", "localhost, example", "[", "[::1]:1:2"),
    *("example/127.0.0.1", "0"),
]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
@pytest.mark.parametrize(
    ("host", "status"),
    [*((name, b"200") for name in LOOPBACK_NAMES), *((name, b"403") for name in OTHER_NAMES)],
)
def test_on_loopback_only_loopback_names_are_answered(
    port: HostPort, path: str, host: str, status: bytes
) -> None:
    """A page of another site could have its name resolved to this machine (DNS rebinding)."""
    received = exchange(port, f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    assert received.startswith(b"HTTP/1.0 " + status)
    assert (b"eventml_info" in received) == (status == b"200" and path == "/metrics")


def test_every_one_of_several_names_counts(port: HostPort) -> None:
    for names in (["localhost", "example"], ["example", "localhost"]):
        hosts = "".join(f"host: {name}\r\n" for name in names)
        assert exchange(port, f"GET /livez HTTP/1.1\r\n{hosts}\r\n".encode()).startswith(b"HTTP/1.0 403")


def test_on_other_addresses_every_name_is_answered() -> None:
    status = ServiceStatus(bus="b", workers=[])
    with serve_status(lambda: status, HostPort("0.0.0.0", 0)) as address:  # noqa: S104 - for a moment
        reached = HostPort("127.0.0.1", address.port)
        assert exchange(reached, b"GET /livez HTTP/1.1\r\nhost: pod.example\r\n\r\n").startswith(
            b"HTTP/1.0 200"
        )


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.0.0", "*/*", "x", ""])
def test_metrics_are_in_the_text_format_whatever_is_accepted(port: HostPort, accept: str) -> None:
    received = exchange(port, f"GET /metrics HTTP/1.1\r\naccept: {accept}\r\n\r\n".encode())
    assert received.startswith(b"HTTP/1.0 200 ")
    assert b"content-type: text/plain; version=0.0.4" in received.lower()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /livez HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\ncontent-length: 0\r\ncontent-length: 40\r\n\r\n",
        b"GET /livez HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nx: a\r\n content-length: 4\r\n\r\n",
        b"GET /livez HTTP/1.1\nx: a\n\n",
        b"GET /livez HTTP/1.1\r\nconnection: keep-alive\r\n\r\n",
        b"POST /livez HTTP/1.1\r\ncontent-length: 4\r\n\r\n",
        b"\r\n",
        b"\0\r\n\r\n",
    ],
)
def test_a_connection_has_one_answer(port: HostPort, request_: bytes) -> None:
    """Whatever a proxy in front takes for the end of a request, no second one is found in it."""
    received = exchange(port, request_ + b"GET /livez HTTP/1.1\r\n\r\n")
    assert received.count(b"HTTP/1.0 ") <= 1
    assert exchange(port, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 200 ")


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /livez HTTP/1.1\r\n", b"a: b\r\n" * 101, b"\r\n"],
        [b"GET /livez HTTP/1.1\r\n", *[b"a: " + b"b" * 10_000 + b"\r\n"] * 7, b"\r\n"],
        [b"GET /livez HTTP/1.1\r\na: ", b"b" * 70_000, b"\r\n\r\n"],
        [b"GET /", b"x" * 70_000, b" HTTP/1.1\r\n\r\n"],
    ],
    ids=["many", "large together", "one large", "long path"],
)
def test_headers_are_limited(port: HostPort, parts: list[bytes]) -> None:
    assert not exchange(port, *parts).startswith(b"HTTP/1.0 200 ")
    assert exchange(port, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 200 ")


def test_a_client_that_sends_a_little_again_and_again_is_disconnected(
    port: HostPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_TIMEOUT", 0.3)
    with connect(port) as client, pytest.raises(ConnectionError):  # noqa: PT012 - whichever part is refused
        client.sendall(b"GET /livez HTTP/1.1\r\nhost: ")
        for _ in range(600):
            time.sleep(0.05)
            client.sendall(b"x")


def test_a_client_has_as_long_to_read_as_it_had_to_send(
    port: HostPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_TIMEOUT", 1.0)
    monkeypatch.setattr(operations, "render_metrics", lambda _: "x" * 32_000_000)
    with connect(port) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        for part in (b"a: b\r\n", b"\r\n"):
            time.sleep(0.4)
            client.sendall(part)
        time.sleep(0.8)
        received = 0
        while part := client.recv(1_048_576):
            received += len(part)
    assert received > 32_000_000


def test_idle_connections_cost_a_hundred_threads(port: HostPort) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connect(port))
        assert exchange(port, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 200 ")
        deadline = time.monotonic() + 30
        while threading.active_count() > before + 101:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_no_client_of_our_own_takes_a_proxy_from_the_environment() -> None:
    """Requests to this machine would leave it. `http.client` knows no proxy."""
    root = Path(__file__).parents[2]
    files = [*(root / "src").rglob("*.py"), *(root / "deployment").rglob("*")]
    proxied = re.compile(r"urllib\.request|urlopen|import (httpx|requests|aiohttp)\b")
    assert [file for file in files if file.is_file() and proxied.search(file.read_text("utf-8"))] == []


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
