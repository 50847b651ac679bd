"""The operations port: `/livez`, `/readyz` and `/metrics`, over HTTP, for machines that watch.

It is served by a thread, so that it answers even where the event loop is blocked: that is when it
matters. It knows no secrets and changes nothing, but it is for operators: it listens on loopback
unless told otherwise.
"""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.deploy.workers.metrics import render
from eventml.deploy.workers.status import unready
from eventml.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventml.deploy.workers.status import Status

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 9464
_TEXT: Final = "text/plain; charset=utf-8"


class Address(msgspec.Struct, frozen=True):
    """Where the port is."""

    host: str = LOOPBACK
    port: int = PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def read_address(text: str) -> Address:
    """`9464`, `:9464`, `0.0.0.0:9464`, `[::1]:9464`.

    Raises:
        ConfigError: it is none of these.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:  # noqa: PLR2004 - the highest port there is
        raise ConfigError(f"operations port: {text!r} is no address; write a port, or HOST:PORT")
    return Address(host.strip("[]") or LOOPBACK, int(port))


class Operations:
    """What is answered to those who ask. It may be asked from any thread.

    Args:
        status: Tells how the service is, now.
        max_lag: The most unfinished records that a group may have for the service to be ready.
    """

    def __init__(self, status: Callable[[], Status], *, max_lag: int | None = None) -> None:
        self._status = status
        self._max_lag = max_lag

    def answer(self, path: str, accept: str = "") -> tuple[HTTPStatus, bytes, str]:
        """The status, the body and its content type."""
        match path.partition("?")[0]:
            case "/livez":
                return _verdict([self._status().stuck])
            case "/readyz":
                return _verdict(unready(self._status(), self._max_lag))
            case "/metrics":
                try:
                    body, kind = render(self._status(), accept)
                except MissingExtraError as exc:
                    return HTTPStatus.NOT_IMPLEMENTED, f"{exc}\n".encode(), _TEXT
                return HTTPStatus.OK, body, kind
        return HTTPStatus.NOT_FOUND, b"there are /livez, /readyz and /metrics\n", _TEXT


def _verdict(problems: list[str]) -> tuple[HTTPStatus, bytes, str]:
    said = [problem for problem in problems if problem]
    if said:
        return HTTPStatus.SERVICE_UNAVAILABLE, "".join(f"{line}\n" for line in said).encode(), _TEXT
    return HTTPStatus.OK, b"ok\n", _TEXT


@contextmanager
def serving(operations: Operations, address: Address) -> Iterator[Address]:
    """Serve until left. Gives the address, its port chosen where 0 was asked for.

    Raises:
        ConfigError: somebody listens there already, or there is no such address here.
    """
    try:
        server = _server(operations, address)
    except OSError as exc:
        raise ConfigError(
            f"operations port {address}: {exc.strerror or exc}; choose another with --operations "
            "HOST:PORT, or none with --operations off"
        ) from exc
    thread = threading.Thread(target=server.serve_forever, name="operations port", daemon=True)
    thread.start()
    try:
        yield Address(address.host, server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def _server(operations: Operations, address: Address) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds for a client to say what it wants
        server_version = "eventml"
        sys_version = ""

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            status, body, kind = operations.answer(self.path, self.headers.get("Accept", ""))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as overridden
            """A probe every few seconds is nothing to log."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that leaves early is nothing to log."""

    return Server((address.host, address.port), Handler)
