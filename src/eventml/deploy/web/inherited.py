"""A web worker under a supervisor: its socket is inherited, and its figures are all workers' together."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from contextlib import ExitStack, asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from eventml.deploy.web.jobs import predictors
from eventml.deploy.web.serving import listen_together, loop_options, web_worker
from eventml.deploy.web.tokens import Guard, token_of_environment
from eventml.deploy.workers import ServicePlan, WorkerSpec, run_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.bus import Bus
    from eventml.deploy.web.serving import WebWorker

_TEXT: Final = "text/plain; charset=utf-8"
_PATIENCE: Final = 5.0  # seconds for the supervisor to answer


async def run_web_service(bus: Bus, plan: ServicePlan) -> int:
    """Run the web service in several workers under a supervisor. Returns the exit status.

    Each worker has a listening socket of its own, which outlives its processes: the next one takes it over.

    Raises:
        ConfigError: there is nothing to be asked, or the address is in use.
    """
    predictors(bus, plan.only)  # refuse what makes no sense before anything is started
    web = bus.settings.web
    with ExitStack() as stack:
        sockets = listen_together(web.host, web.port, int(plan.workers))
        listeners = [stack.enter_context(listener) for listener in sockets]
        plan = msgspec.structs.replace(
            plan,
            factory="eventml.deploy.web:inherited_worker",
            loop_options=loop_options(),
            listeners=listeners,
        )
        return await run_service(bus, plan)


@asynccontextmanager
async def inherited_worker(bus: Bus, spec: WorkerSpec) -> AsyncIterator[WebWorker]:
    """The worker that a supervisor's spec describes."""
    guard = Guard(token_of_environment(), everybody=spec.without_token)
    listener = socket.socket(fileno=spec.listener)
    listener.setblocking(False)

    def metrics(accept: str) -> tuple[int, bytes, str]:
        return metrics_of(spec.operations, accept)

    async with web_worker(bus, listener, guard=guard, only=spec.handlers, metrics=metrics) as worker:
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
