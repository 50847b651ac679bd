"""The HTTP server of the operations port: a thread for each connection, with limits."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import io
import logging
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import msgspec

from eventml.deploy.workers.logs import LogRateLimit
from eventml.errors import ConfigError
from eventml.loopback import is_loopback, is_loopback_name
from eventml.printable import printable

log = logging.getLogger("eventml.operations")
log.addFilter(LogRateLimit(exempt=None))

TEXT: Final = "text/plain; charset=utf-8"
INTERNAL_ERROR: Final = b"internal error; see the log of the service\n"

LOOPBACK: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9464
_NOT_LOOPBACK: Final = b"this port answers to 127.0.0.1, localhost and [::1] only\n"
_MAX_PORT: Final = 65_535
_TIMEOUT: Final = 10.0  # seconds that a client may take to send its request, and again to read the answer
_MAX_HEAD: Final = 65_536  # bytes of the request line and the headers
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_MAX_BODY: Final = 65_536  # bytes
_MAX_CONNECTIONS: Final = 100  # a thread each


class HostPort(msgspec.Struct, frozen=True):
    """A host and a port to listen on or to connect to."""

    host: str = LOOPBACK
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Request(msgspec.Struct, frozen=True):
    """A request for a page.

    Attributes:
        headers: By their names in lower case; of a repeated one, the last.
        client: IP address of the client.
        port: Port that the operations port listens on.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    client: str = LOOPBACK
    port: int = DEFAULT_PORT


class Response(msgspec.Struct, frozen=True):
    """The response to a request for a page. A body of parts is sent as they come, until the client leaves."""

    body: bytes | Iterator[bytes]
    status: int = HTTPStatus.OK
    content_type: str = TEXT
    headers: Mapping[str, str] = {}


Pages = Callable[[Request], Response | None]
"""Answers a request; None if nothing is at its path. Threads call it at the same time."""


def parse_host_port(text: str) -> HostPort:
    """Parse `9464`, `:9464`, `0.0.0.0:9464` or `[::1]:9464`.

    Raises:
        ConfigError: it has another form.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > _MAX_PORT:
        raise ConfigError(f"--operations: {text!r} is not an address; write PORT or HOST:PORT")
    return HostPort(host.strip("[]") or LOOPBACK, int(port))


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
    server: "HttpServer"
    server_version = "eventml"
    sys_version = ""

    def handle(self) -> None:
        self.rfile = io.BytesIO(_read_head(self.connection))
        self.connection.settimeout(_TIMEOUT)
        super().handle()

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(
            self.command, self.path, headers, self._read_body(), self.client_address[0], self.server.port
        )
        response = self.server.answer(request, self.headers.get_all("host", []))
        body = response.body
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if isinstance(body, bytes):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            for part in [body] if isinstance(body, bytes) else body:
                self.wfile.write(part)

    do_HEAD = do_POST = do_GET  # noqa: N815 - as overridden

    def _read_body(self) -> bytes:
        """Read the body of a request. Raises ConnectionError if it is too large, or the client has left."""
        length = self.headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > len(str(_MAX_BODY)) or int(length) > _MAX_BODY:
            raise ConnectionAbortedError
        body, deadline = self.rfile.read(int(length)), time.monotonic() + _TIMEOUT
        while len(body) < int(length):
            if (remaining := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            self.connection.settimeout(remaining)
            if not (part := self.connection.recv(int(length) - len(body))):
                raise ConnectionAbortedError
            body += part
        self.connection.settimeout(_TIMEOUT)
        return body

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as overridden
        """Log nothing: a probe asks every few seconds."""


class HttpServer(ThreadingHTTPServer):
    """The server. `answer` is called in threads, with the path; `pages` with what it does not find.

    Raises:
        OSError: the address is in use, or does not belong to this machine.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, answer: Callable[[str], tuple[HTTPStatus, bytes, str]], address: HostPort) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._answer = answer
        self.pages: Pages | None = None
        self._on_loopback = is_loopback(address.host)
        self._connections: dict[socket.socket, None] = {}  # the oldest first
        super().__init__((address.host, address.port), _RequestHandler)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def answer(self, request: Request, hosts: list[str]) -> Response:
        """Return the response to a request with these headers `host`. The pages never hide a probe's path."""
        if self._on_loopback and not all(map(is_loopback_name, hosts)):
            return Response(_NOT_LOOPBACK, HTTPStatus.FORBIDDEN)
        status, body, content_type = self._answer(request.path)
        if status == HTTPStatus.NOT_FOUND and self.pages is not None:
            try:
                found = self.pages(request)
            except Exception:
                log.exception("operations port: error in the page %s", printable(request.path))
                return Response(INTERNAL_ERROR, HTTPStatus.INTERNAL_SERVER_ERROR)
            if found is not None:
                return found
        return Response(body, status, content_type)

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
        """Close a connection."""
        self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the error, unless the client has closed its connection or was too slow."""
        del request, client_address
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            log.error("operations port: error in a connection", exc_info=error)
