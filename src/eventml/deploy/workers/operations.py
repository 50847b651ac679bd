"""The operations port: `/livez`, `/readyz` and `/metrics` over HTTP, for probes and for Prometheus.

A thread of its own serves it, so that it answers even while the event loop is blocked. It reveals no secrets
and changes nothing, but it is meant for operators: by default it listens on loopback only.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.deploy.workers.logs import LogRateLimit
from eventml.deploy.workers.metrics import render_metrics
from eventml.deploy.workers.status import ServiceStatus, unready_reasons
from eventml.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("eventml.operations")
log.addFilter(LogRateLimit(exempt=None))

LOOPBACK: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9464

_TEXT: Final = "text/plain; charset=utf-8"
_MAX_PORT: Final = 65_535


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
        ConfigError: the text has none of these forms.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > _MAX_PORT:
        raise ConfigError(f"--operations: {text!r} is not an address; write PORT or HOST:PORT")
    return HostPort(host.strip("[]") or LOOPBACK, int(port))


class OperationsEndpoints:
    """Answers requests to the operations port. Any thread may call it.

    Args:
        status: Returns the current status of the service.
        max_lag: Highest lag of a group with which the service is ready; None for no limit.
    """

    def __init__(self, status: Callable[[], ServiceStatus], *, max_lag: int | None = None) -> None:
        self._status = status
        self._max_lag = max_lag

    def answer(self, path: str, accept: str = "") -> tuple[HTTPStatus, bytes, str]:
        """Return the HTTP status, the body and its content type.

        An unexpected error is logged, at most once in ten seconds, and answered with 500.

        Args:
            path: Path of the request; its query is ignored.
            accept: Header `Accept`, which chooses the format of the metrics.
        """
        try:
            return self._answer(path.partition("?")[0], accept)
        except Exception:
            log.exception("operations port: error in the answer to %s", path)
            return HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error; see the log of the service\n", _TEXT

    def _answer(self, path: str, accept: str) -> tuple[HTTPStatus, bytes, str]:
        match path:
            case "/livez":
                stuck = self._status().stuck
                return _health_answer([stuck] if stuck else [])
            case "/readyz":
                return _health_answer(unready_reasons(self._status(), self._max_lag))
            case "/metrics":
                try:
                    body, content_type = render_metrics(self._status(), accept)
                except MissingExtraError as exc:
                    return HTTPStatus.NOT_IMPLEMENTED, f"{exc}\n".encode(), _TEXT
                return HTTPStatus.OK, body, content_type
        return HTTPStatus.NOT_FOUND, b"not found; there are /livez, /readyz and /metrics\n", _TEXT


def _health_answer(problems: list[str]) -> tuple[HTTPStatus, bytes, str]:
    if problems:
        return HTTPStatus.SERVICE_UNAVAILABLE, "".join(f"{line}\n" for line in problems).encode(), _TEXT
    return HTTPStatus.OK, b"ok\n", _TEXT


@contextmanager
def serve_endpoints(endpoints: OperationsEndpoints, address: HostPort) -> Iterator[HostPort]:
    """Serve the operations port inside this context; yields its address, with the port that 0 has chosen.

    Raises:
        ConfigError: the address is in use, or does not belong to this machine.
    """
    try:
        server = _server(endpoints, address)
    except OSError as exc:
        raise ConfigError(
            f"operations port {address}: {exc.strerror or exc}; choose another with --operations "
            "HOST:PORT, or switch it off with --operations off"
        ) from exc
    thread = threading.Thread(target=server.serve_forever, name="operations port", daemon=True)
    thread.start()
    try:
        yield HostPort(address.host, server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def _server(endpoints: OperationsEndpoints, address: HostPort) -> ThreadingHTTPServer:
    class RequestHandler(BaseHTTPRequestHandler):
        timeout = 10  # seconds that a client may take to send its request
        server_version = "eventml"
        sys_version = ""

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            status, body, content_type = endpoints.answer(self.path, self.headers.get("Accept", ""))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as overridden
            """Log nothing: a probe asks every few seconds."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Log the error, unless the client has closed its connection or was too slow."""
            del request, client_address
            error = sys.exception()
            if not isinstance(error, ConnectionError | TimeoutError):
                log.error("operations port: error in a connection", exc_info=error)

    return Server((address.host, address.port), RequestHandler)
