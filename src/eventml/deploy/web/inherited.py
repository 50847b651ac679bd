"""A web worker under a supervisor: its socket is inherited, and its figures are all workers' together."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from eventml.deploy.web.serving import web_worker
from eventml.deploy.web.tokens import Guard, token_of_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.bus import Bus
    from eventml.deploy.web.serving import WebWorker
    from eventml.deploy.workers import Orders

_TEXT: Final = "text/plain; charset=utf-8"
_PATIENCE: Final = 5.0  # seconds for the supervisor to answer


@asynccontextmanager
async def inherited_worker(bus: Bus, orders: Orders) -> AsyncIterator[WebWorker]:
    """The worker that a supervisor's orders describe."""
    guard = Guard(token_of_environment(), everybody=orders.everybody)
    listener = socket.socket(fileno=orders.listener)
    listener.setblocking(False)

    def metrics(accept: str) -> tuple[int, bytes, str]:
        return metrics_of(orders.operations, accept)

    async with web_worker(bus, listener, guard=guard, only=orders.only, metrics=metrics) as worker:
        yield worker


def metrics_of(operations: str | None, accept: str) -> tuple[int, bytes, str]:
    """The whole service's figures, from the supervisor's operations port: status, body, content type."""
    if operations is None:
        return HTTPStatus.NOT_IMPLEMENTED, b"the operations port is off, and with it /metrics\n", _TEXT
    asked = urllib.request.Request(f"http://{operations}/metrics", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(asked, timeout=_PATIENCE) as answer:  # noqa: S310 - as above
            return answer.status, answer.read(), answer.headers.get("Content-Type", _TEXT)
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read(), exc.headers.get("Content-Type", _TEXT)
    except OSError as exc:
        return HTTPStatus.SERVICE_UNAVAILABLE, f"the supervisor does not answer: {exc}\n".encode(), _TEXT
