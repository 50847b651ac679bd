"""uvicorn's server, with limits for each connection. All use of what uvicorn does not document is here.

pyproject.toml admits only the versions that it was tried with.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from typing import Any, Final

import anyio
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

BACKLOG: Final = 2048  # connections
_MAX_HEADERS: Final = 100
_MAX_HEADERS_SIZE: Final = 65_536  # bytes, with the request line
_MAX_PIPELINED: Final = 16  # requests that wait for the answers to earlier ones of their connection

_BODY_HEADERS: Final = (b"content-length", b"transfer-encoding")
_POLL: Final = 0.01  # seconds
_FIRST_REQUEST_TIMEOUT: Final = 0.5  # seconds, at the stop, for a connection that has sent no request yet


class HttpServer(uvicorn.Server):
    """uvicorn's server for an ASGI app, without signal handlers and lifespan.

    `keep_alive` is how long a connection stays open without a request, `drain` how long requests in flight
    may take once the server stops, in seconds.
    """

    def __init__(self, app: ASGIApp, *, keep_alive: float, drain: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                http=_HttpProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=keep_alive,  # type: ignore[arg-type] # seconds; a timer takes fractions
                timeout_graceful_shutdown=drain,  # type: ignore[arg-type] # the same
            )
        )

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override] # it is a generator there
        """Leave signals to the process."""
        return nullcontext()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, wait for the first request of those just accepted, and shut down.

        Without the wait, a client that has connected and is sending its request would be disconnected.
        """
        for server in self.servers:
            server.close()
        connections: Any = self.server_state.connections
        with anyio.move_on_after(_FIRST_REQUEST_TIMEOUT):
            await asyncio.sleep(_POLL)
            while any(one.cycle is None for one in connections):
                if self.force_exit:
                    break
                await asyncio.sleep(_POLL)
        await super().shutdown(sockets)

    def idle_connections(self) -> list[Any]:
        """Return connections that wait for a request to arrive; not those kept alive."""
        connections: Any = self.server_state.connections
        return [
            one
            for one in connections
            if one.timeout_keep_alive_task is None and (one.cycle is None or one.cycle.response_complete)
        ]

    def blocked_connections(self) -> list[Any]:
        """Return connections whose client has to read before more can be sent, or before they can close."""
        connections: Any = self.server_state.connections
        return [one for one in connections if one.flow.write_paused or one.transport.is_closing()]


class _HttpProtocol(HttpToolsProtocol):
    """A connection of the server, whose headers and requests sent ahead are limited before they are stored.

    Larger headers, or more of them, are answered 431; what is not HTTP, 400. The requests before are answered
    first, and then the connection is closed. That is also the end of one with too many requests sent ahead.
    Trailers are ignored.
    """

    _unparsed = 0  # bytes received since the parser last gave away all that it holds
    _refused = False
    _status = HTTPStatus.BAD_REQUEST

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        self.flow = _FlowControl(transport, self.pipeline)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > _MAX_HEADERS_SIZE and not self._refused:
            self._status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.send_400_response("")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise _RefusedError
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._unparsed = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > _MAX_HEADERS_SIZE or len(self.headers) > _MAX_HEADERS:
            self._status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise _RefusedError
        # The parser would take the body of a request to upgrade, which is not done, for the next request.
        if self.parser.should_upgrade() and any(name in _BODY_HEADERS for name, _ in self.headers):
            raise _RefusedError
        super().on_headers_complete()
        self.headers = []  # trailers come here

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request: uvicorn calls this where the parser or one of the methods above has raised."""
        del msg
        self._refused = True
        last = self.cycle
        if (
            last
            and not last.response_complete
            and (self.pipeline or last.response_started or not last.more_body)
        ):
            last.keep_alive = False  # closes the connection after its answer
            return
        self.transport.write(
            b"HTTP/1.1 %d %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            % (self._status.value, self._status.phrase.encode())
        )
        self.transport.close()


class _RefusedError(Exception):
    """Raised to the parser, which then takes no more."""


class _FlowControl(FlowControl):
    """Reads nothing more while a request waits for the answers to earlier ones."""

    def __init__(self, transport: asyncio.Transport, waiting: deque[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()
