"""The web service on sockets: an HTTP server (uvicorn) around the ASGI app, in this process or in workers."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

import anyio
import msgspec
from starlette.types import Receive, Scope, Send

from eventml.bus import Bus
from eventml.deploy.web.asgi_app import WebService
from eventml.deploy.web.authentication import Authenticator
from eventml.deploy.web.http_messages import send_problem, unavailable
from eventml.deploy.web.predict import served_predictors
from eventml.deploy.web.uvicorn_server import BACKLOG, HttpServer
from eventml.deploy.workers import HostPort, OpenPages, ServicePlan, WorkerSpec, run_service
from eventml.errors import ConfigError
from eventml.runtime import LoadedHandler, Stats

_CHECK_INTERVAL: Final = 1.0  # seconds between two checks of the connections
_POLL: Final = 0.01  # seconds
_METRICS_TIMEOUT: Final = 5.0  # seconds for the supervisor to answer
_TEXT: Final = "text/plain; charset=utf-8"


class WebWorker:
    """A web service that runs in this process on a listening socket, as a `RunningWorker`.

    The lifespan of its application must have been entered.
    """

    def __init__(self, application: WebService, listener: socket.socket) -> None:
        assert application.worker is not None  # noqa: S101 - for the type checker: its lifespan is entered
        settings = application.bus.settings
        self._application = application
        self._worker = application.worker
        self._listener = listener
        self._server = HttpServer(self._answer, keep_alive=settings.web.keep_alive, drain=settings.drain)
        self._cancelled = 0  # requests that `drain` was too short for
        self.handlers: Sequence[LoadedHandler] = application.worker.handlers
        self.stats: dict[str, Stats] = application.worker.stats
        self.outages = application.worker.outages
        self.ready = anyio.Event()

    @property
    def in_flight(self) -> int:
        return self._application.in_flight

    async def lag(self) -> dict[str, int | None]:
        return await self._worker.lag()

    def stop(self) -> None:
        self._server.should_exit = True

    def abandon(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._worker.abandon()

    async def run(self) -> bool:
        """Serve until stopped. Returns whether all requests in flight were finished within `drain`."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._set_ready)
            tasks.start_soon(self._close_idle_connections)
            await self._server.serve(sockets=[self._listener])
            tasks.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint()  # requests that the server has cancelled end
        return not self._application.in_flight and not self._cancelled

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI app of the server: answers 503 where the server cancels a request because `drain` ran out.

        Cancellation may end here, and nowhere below: this is the outermost call of the request's own task.
        """
        try:
            await self._application(scope, receive, send)
        except asyncio.CancelledError:
            self._cancelled += 1
            await send_problem(send, unavailable("the service has stopped before it could answer"))

    async def _set_ready(self) -> None:
        while not self._server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await anyio.sleep(_POLL)
        self.ready.set()

    async def _close_idle_connections(self) -> None:
        """Close connections on which no request arrives in time, or whose client reads nothing in time."""
        web = self._application.bus.settings.web
        since: dict[tuple[Any, int | None], float] = {}  # by connection, and if blocked: bytes to send
        while True:
            await anyio.sleep(min(_CHECK_INTERVAL, web.receive_timeout / 2, web.send_timeout / 2))
            now = time.monotonic()
            waiting: list[tuple[Any, int | None]] = [(one, None) for one in self._server.idle_connections()]
            blocked = self._server.blocked_connections()
            waiting += [(one, one.transport.get_write_buffer_size()) for one in blocked]
            since = {one: since.get(one, now) for one in waiting}
            for (connection, unsent), start in since.items():
                if unsent is None and now - start >= web.receive_timeout:
                    connection.transport.close()
                elif unsent is not None and now - start >= web.send_timeout:
                    connection.transport.abort()


def listen(host: str, port: int, *, share: bool = False) -> socket.socket:
    """Return a listening socket; port 0 is a free one.

    `share` allows other sockets on the same address: the kernel spreads connections over them.

    Raises:
        ConfigError: the address is in use, or not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        dualstack = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        listener = socket.create_server(
            (host, port), family=family, backlog=BACKLOG, reuse_port=share, dualstack_ipv6=dualstack
        )
    except OSError as exc:
        raise ConfigError(
            f"web.host, web.port: {HostPort(host, port)}: {exc.strerror or exc}; choose "
            "another address with --host and --port"
        ) from exc
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # or the kernel would take megabytes before a reader is noticed
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 131_072)
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> HostPort:
    """Return the address that a socket listens on."""
    return HostPort(*listener.getsockname()[:2])


@asynccontextmanager
async def web_worker(application: WebService, listener: socket.socket) -> AsyncIterator[WebWorker]:
    """Enter the lifespan of a web service on a listening socket; the `run` of the worker serves requests.

    It raises the limit of open files of the process to the most that is allowed.
    """
    with suppress(ImportError, ValueError, OSError):  # each connection is an open file
        import resource  # noqa: PLC0415 - Windows has no such module

        _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    async with application.lifespan():
        yield WebWorker(application, listener)


async def run_web_service(bus: Bus, plan: ServicePlan, open_pages: OpenPages | None = None) -> int:
    """Run the web service in several workers under a supervisor, and return the exit status.

    `open_pages` opens the pages of its operations port, if it has any.

    Each worker has a listening socket of its own, which outlives its processes: the next one takes it over.

    Raises:
        ConfigError: the bus has no predictor to serve, or the address is in use.
    """
    served_predictors(bus, plan.only)  # refused here, before any process is started
    web = bus.settings.web
    listeners: list[socket.socket] = []
    with ExitStack() as stack:
        for _ in range(int(plan.workers)):
            port = address_of(listeners[0]).port if listeners else web.port
            listeners.append(stack.enter_context(listen(web.host, port, share=plan.workers != "1")))
        plan = msgspec.structs.replace(
            plan,
            factory="eventml.deploy.web:supervised_worker",
            loop_options=loop_options(),
            listeners=listeners,
        )
        return await run_service(bus, plan, open_pages)


@asynccontextmanager
async def supervised_worker(bus: Bus, spec: WorkerSpec) -> AsyncIterator[WebWorker]:
    """Open the web service of a worker process: with an inherited socket, and `/metrics` of all workers."""
    listener = socket.socket(fileno=spec.listener)
    listener.setblocking(False)
    application = WebService(
        bus,
        Authenticator.from_environment(without_token=spec.without_token),
        only=spec.handlers,
        metrics=lambda: _supervisor_metrics(spec.operations),
    )
    async with web_worker(application, listener) as worker:
        yield worker


def _supervisor_metrics(operations: str | None) -> tuple[int, bytes, str]:
    """Get `/metrics` from the operations port of the supervisor: status, body and content type."""
    if operations is None:
        return HTTPStatus.NOT_IMPLEMENTED, b"/metrics needs the operations port; see --operations\n", _TEXT
    connection = HTTPConnection(operations, timeout=_METRICS_TIMEOUT)  # it knows no proxy
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        return response.status, response.read(), response.headers.get("Content-Type", _TEXT)
    except (OSError, HTTPException) as exc:
        body = f"the operations port of the supervisor does not answer: {exc}\n".encode()
        return HTTPStatus.SERVICE_UNAVAILABLE, body, _TEXT
    finally:
        connection.close()


def loop_options() -> dict[str, Any]:
    """Return backend options of `anyio.run`: uvloop if it is installed, which makes an HTTP server faster."""
    return {"use_uvloop": True} if importlib.util.find_spec("uvloop") else {}
