"""`eventml serve` in a process of its own, and bare connections to it, which can break HTTP."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from tests.deploy.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping

APPS: Final = Path(__file__).with_name("apps")


class Server:
    """A server process on a port of its own.

    Args:
        log: File for its standard error.
        options: Those of `eventml serve`.
        app: MODULE:BUS.
        env: Environment variables.
    """

    def __init__(self, log: Path, *options: str, app: str, env: Mapping[str, str]) -> None:
        if "--port" not in options:
            options = (*options, "--port", "0")
        self.process = Service(log, *options, app=app, env=dict(env), command="serve", apps=APPS)
        self.kill = self.process.kill

    @property
    def text(self) -> str:
        return self.process.text

    @property
    def port(self) -> int:
        """Its port; waits until it listens."""
        self.process.until_logged("serving on http://")
        found = re.search(r"serving on http://[^ ]*:(\d+)", self.text)
        assert found is not None
        return int(found[1])

    def client(self, **options: Any) -> httpx.Client:
        """Return an HTTP client of the server."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, verify=False, **options)  # noqa: S501 - no TLS here, and no CA bundle to load

    @property
    def peak_memory(self) -> int:
        """The most memory that its process has had so far, in bytes."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def connect(self) -> socket.socket:
        """Return a bare connection to the server."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.settimeout(30)
        return connection


def read_answer(connection: socket.socket) -> bytes:
    """Return all bytes until the server closes the connection."""
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


def read_rest(connection: socket.socket) -> bytes:
    """Return all bytes until the server closes or resets the connection."""
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(65_536):
            received += part
    return received


def request(path: str, body: bytes, *, length: int | None = None, extra: str = "") -> bytes:
    """Return the bytes of a request; `length` is its content length, if that is not true."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body) if length is None else length}\r\n{extra}\r\n"
    )
    return head.encode() + body
