"""The operations port: `/livez`, `/readyz` and `/metrics` over HTTP, and pages.

Threads of its own serve it, so that it answers even while the event loop is blocked. These paths reveal no
secrets and change nothing, but they are meant for operators: by default the port listens on loopback only,
and answers to loopback names only. Other paths are those of `OpenPages`, such as the console.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Final

import anyio

from eventml.deploy.workers.http_server import INTERNAL_ERROR, TEXT, HostPort, HttpServer, Pages
from eventml.deploy.workers.metrics import METRICS_TYPE, render_metrics
from eventml.deploy.workers.readiness import LagMonitor, refused_models, unready_reasons
from eventml.deploy.workers.reports import (
    RunningWorker,
    ServiceStatus,
    WorkerStatus,
    handler_reports,
    resident_memory,
)
from eventml.deploy.workers.restarts import HealthLimits, kill_reason
from eventml.errors import ConfigError
from eventml.printable import printable
from eventml.runtime import task_group

log = logging.getLogger("eventml.operations")

_TICK: Final = 0.5  # seconds between two proofs that the event loop runs

OpenPages = Callable[[Callable[[], ServiceStatus], int | None], AbstractContextManager[Pages]]
"""Opens the pages of a service, given its status and `max_lag`."""


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
        return HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR, TEXT
    return HTTPStatus.NOT_FOUND, b"not found; there are /livez, /readyz and /metrics\n", TEXT


def _health_answer(problems: list[str], details: list[str] | None = None) -> tuple[HTTPStatus, bytes, str]:
    body = "".join(f"{printable(line)}\n" for line in [*(problems or ["ok"]), *(details or [])])
    return HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK, body.encode(), TEXT


@contextmanager
def serve_status(
    status: Callable[[], ServiceStatus],
    address: HostPort,
    max_lag: int | None = None,
    open_pages: OpenPages | None = None,
) -> Iterator[HostPort]:
    """Serve the operations port inside this context; yields its address, with the port that 0 has chosen.

    `status` is called in other threads. `max_lag` is as in `answer_operations`. `open_pages` opens the pages
    at other paths, if there are any.

    Raises:
        ConfigError: the address is in use, or does not belong to this machine.
    """
    try:
        server = HttpServer(lambda path: answer_operations(path, status, max_lag), address)
    except OSError as exc:
        raise ConfigError(
            f"operations port {address}: {exc.strerror or exc}; choose another with --operations "
            "HOST:PORT, or switch it off with --operations off"
        ) from exc
    bound = HostPort(address.host, server.server_address[1])
    logging.getLogger("eventml").info("operations port: http://%s/readyz, /livez, /metrics", bound)
    with ExitStack() as stack:
        if open_pages is not None:
            server.pages = stack.enter_context(open_pages(status, max_lag))
            logging.getLogger("eventml").info("console: http://%s/", bound)
        threading.Thread(target=server.serve_forever, name="operations port", daemon=True).start()
        try:
            yield bound
        finally:
            server.shutdown()
            server.server_close()


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
            memory=resident_memory(os.getpid()),
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
    bus: str,
    worker: RunningWorker,
    address: HostPort,
    *,
    max_lag: int | None,
    limits: HealthLimits,
    open_pages: OpenPages | None = None,
) -> AsyncIterator[None]:
    """Serve the operations port of a worker in this process: `watch_health` and `serve_status`."""
    async with watch_health(bus, worker, limits) as status:
        with serve_status(status, address, max_lag, open_pages):
            yield
