"""`eventml serve` in a process of its own, and connections to it that say what HTTP clients never would."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from tests.deploy.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping

APPS: Final = Path(__file__).with_name("apps")


class Server:
    """A service on a port of its own.

    Args:
        log: Where its standard error goes.
        options: Those of `eventml serve`.
        app: MODULE:BUS.
        env: Variables for the app.
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
        """Where it listens, once it says so."""
        self.process.until_logged("serving on http://")
        found = re.search(r"serving on http://[^ ]*:(\d+)", self.text)
        assert found is not None
        return int(found[1])

    def client(self, **said: Any) -> httpx.Client:
        """A client of it."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, **said)

    def connect(self) -> socket.socket:
        """A bare connection to it."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.settimeout(30)
        return connection


def read_answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    said = b""
    while part := connection.recv(65_536):
        said += part
    return said


def request(path: str, body: bytes, *, length: int | None = None, extra: str = "") -> bytes:
    """A request as it goes over the wire; `length` is what it says of its body."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body) if length is None else length}\r\n{extra}\r\n"
    )
    return head.encode() + body
