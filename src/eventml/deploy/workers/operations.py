"""The operations port: `/livez`, `/readyz` and `/metrics` over HTTP, for probes and for Prometheus.

A thread of its own serves it, so that it answers even while the event loop is blocked. It reveals no secrets
and changes nothing, but it is meant for operators: by default it listens on loopback only, and answers to
loopback names only.
"""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec

from eventml.deploy.workers.logs import LogRateLimit
from eventml.deploy.workers.metrics import METRICS_TYPE, render_metrics
from eventml.deploy.workers.readiness import LagMonitor, refused_models, unready_reasons
from eventml.deploy.workers.reports import RunningWorker, ServiceStatus, WorkerStatus, handler_reports
from eventml.deploy.workers.restarts import HealthLimits, kill_reason
from eventml.errors import ConfigError
from eventml.loopback import is_loopback, is_loopback_name
from eventml.printable import printable
from eventml.runtime import task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

log = logging.getLogger("eventml.operations")
log.addFilter(LogRateLimit(exempt=None))

LOOPBACK: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9464

_TEXT: Final = "text/plain; charset=utf-8"
_MAX_PORT: Final = 65_535
_TICK: Final = 0.5  # seconds between two proofs that the event loop runs
_TIMEOUT: Final = 10.0  # seconds that a client may take to send its request, and again to read the answer
_MAX_HEAD: Final = 65_536  # bytes of the request line and the headers
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_MAX_CONNECTIONS: Final = 100  # a thread each


class HostPort(msgspec.Struct, frozen=True):
    """A host and a port to listen on or to connect to."""

    host: str = LOOPBACK
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_host_port(text: str) -> HostPort:
    """Parse `9464`, `:9464`, `0.0.0.0:9464` or `[::1]:9464`.

    Raises:
        ConfigError: it has another form.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > _MAX_PORT:
        raise ConfigError(f"--operations: {text!r} is not an address; write PORT or HOST:PORT")
    return HostPort(host.strip("[]") or LOOPBACK, int(port))


def answer_operations(
    path: str, status: Callable[[], ServiceStatus], max_lag: int | None = None
) -> tuple[HTTPStatus, bytes, str]:
    """Return the HTTP status of an answer, its body and its content type. Any thread may call this.

    A query in `path` is ignored. An unexpected error is logged, at most once in ten seconds, and answered
    with 500. `max_lag` is the highest lag of a group with which the service is ready.
    """
    try:
        match path.partition("?")[0]:
            case "/livez":
                stuck = status().stuck
                return _health_answer([stuck] if stuck else [])
            case "/readyz":
                now = status()
                return _health_answer(unready_reasons(now, max_lag), refused_models(now))
            case "/metrics":
                return HTTPStatus.OK, render_metrics(status()).encode(), METRICS_TYPE
    except Exception:
        log.exception("operations port: error in the answer to %s", printable(path))
        return HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error; see the log of the service\n", _TEXT
    return HTTPStatus.NOT_FOUND, b"not found; there are /livez, /readyz and /metrics\n", _TEXT


def _health_answer(problems: list[str], details: list[str] | None = None) -> tuple[HTTPStatus, bytes, str]:
    body = "".join(f"{printable(line)}\n" for line in [*(problems or ["ok"]), *(details or [])])
    return HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK, body.encode(), _TEXT


@contextmanager
def serve_status(
    status: Callable[[], ServiceStatus], address: HostPort, max_lag: int | None = None
) -> Iterator[HostPort]:
    """Serve the operations port inside this context; yields its address, with the port that 0 has chosen.

    `status` is called in other threads. `max_lag` is as in `answer_operations`.

    Raises:
        ConfigError: the address is in use, or does not belong to this machine.
    """
    try:
        server = _Server(lambda path: answer_operations(path, status, max_lag), address)
    except OSError as exc:
        raise ConfigError(
            f"operations port {address}: {exc.strerror or exc}; choose another with --operations "
            "HOST:PORT, or switch it off with --operations off"
        ) from exc
    bound = HostPort(address.host, server.server_address[1])
    logging.getLogger("eventml").info("operations port: http://%s/readyz, /livez, /metrics", bound)
    threading.Thread(target=server.serve_forever, name="operations port", daemon=True).start()
    try:
        yield bound
    finally:
        server.shutdown()
        server.server_close()


def _read_head(connection: socket.socket) -> bytes:
    """Read the request line and the headers from a socket; there may be less, or a part of what follows.

    Raises:
        TimeoutError: they have not arrived in time.
        ConnectionError: they are too large, or the client has left.
    """
    deadline = time.monotonic() + _TIMEOUT
    head = bytearray()
    part = b" "
    while part and not _HEAD_END.search(head, max(0, len(head) - len(part) - 2)):
        if len(head) >= _MAX_HEAD:
            raise ConnectionAbortedError
        if (remaining := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        connection.settimeout(remaining)
        part = connection.recv(_MAX_HEAD - len(head))
        head += part
    return bytes(head)


class _RequestHandler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "eventml"
    sys_version = ""

    def handle(self) -> None:
        self.rfile = io.BytesIO(_read_head(self.connection))
        self.connection.settimeout(_TIMEOUT)
        super().handle()

    def do_GET(self) -> None:
        status, body, content_type = self.server.answer(self.path, self.headers.get_all("host", []))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - as overridden

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as overridden
        """Log nothing: a probe asks every few seconds."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, answer: Callable[[str], tuple[HTTPStatus, bytes, str]], address: HostPort) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._answer = answer
        self._on_loopback = is_loopback(address.host)
        self._connections: dict[socket.socket, None] = {}  # the oldest first
        super().__init__((address.host, address.port), _RequestHandler)

    def answer(self, path: str, hosts: list[str]) -> tuple[HTTPStatus, bytes, str]:
        """Return the answer to a request for a path, with these headers `host`."""
        if self._on_loopback and not all(map(is_loopback_name, hosts)):
            return HTTPStatus.FORBIDDEN, b"this port answers to 127.0.0.1, localhost and [::1] only\n", _TEXT
        return self._answer(path)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread. Of too many connections the oldest is closed: its client sends no request."""
        self._connections[request] = None
        if len(self._connections) > _MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            self._connections.pop(oldest, None)
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the error, unless the client has closed its connection or was too slow."""
        del request, client_address
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            log.error("operations port: error in a connection", exc_info=error)


@asynccontextmanager
async def watch_health(
    bus: str, worker: RunningWorker, limits: HealthLimits
) -> AsyncIterator[Callable[[], ServiceStatus]]:
    """Watch a worker of a bus that runs in this process, without a supervisor.

    It yields a function that returns the current status, which any thread may call. After the `limits`,
    `/livez` fails.
    """
    lag_monitor = LagMonitor(worker)
    started = ticked = time.monotonic()

    def status() -> ServiceStatus:
        now = time.monotonic()
        ready = worker.ready.is_set()
        report = WorkerStatus(
            name="worker",
            pid=os.getpid(),
            state="ready" if ready else "starting",
            connected=lag_monitor.connected,
            uptime=now - started,
            unchanged=now - started,
            silence=now - ticked,
            handlers=handler_reports(worker, lag_monitor.lags) if ready else {},
        )
        return ServiceStatus(bus=bus, workers=[report], stuck=kill_reason(report, limits) or "")

    async def tick() -> None:
        nonlocal ticked
        while True:
            ticked = time.monotonic()
            await anyio.sleep(_TICK)

    async with task_group() as tasks:
        tasks.start_soon(lag_monitor.run)
        tasks.start_soon(tick)
        yield status
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def serve_operations(
    bus: str, worker: RunningWorker, address: HostPort, *, max_lag: int | None, limits: HealthLimits
) -> AsyncIterator[None]:
    """Serve the operations port of a worker in this process: `watch_health` and `serve_status`."""
    async with watch_health(bus, worker, limits) as status:
        with serve_status(status, address, max_lag):
            yield
