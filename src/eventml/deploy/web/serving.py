"""The web service on sockets: an HTTP server, uvicorn, around the application."""

from __future__ import annotations

import socket
import sys
import time
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import anyio

from eventml.deploy.workers import HostPort
from eventml.errors import ConfigError, MissingExtraError

try:
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    from eventml.deploy.web.application import Application
except ImportError as exc:
    raise MissingExtraError("web", "the web service") from exc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from eventml.bus import Bus
    from eventml.config import WebSettings
    from eventml.deploy.web.application import Metrics
    from eventml.deploy.web.tokens import Guard
    from eventml.deploy.workers import HealthLimits
    from eventml.runtime import LoadedHandler, Stats

_BACKLOG = 2048
_LOOK = 1.0  # seconds between two looks at the connections


class WebWorker:
    """A web service at work in this process. Whoever runs a `Worker` can run one of these.

    Args:
        application: What answers. It must have been entered.
        listener: A socket that listens.
        settings: Its limits.
        drain: How long open requests have to be finished after the stop, in seconds.
    """

    def __init__(
        self, application: Application, listener: socket.socket, settings: WebSettings, drain: float
    ) -> None:
        assert application.worker is not None  # noqa: S101 - for the type checker: it has been entered
        self._application = application
        self._worker = application.worker
        self._listener = listener
        self._settings = settings
        self._server = uvicorn.Server(
            uvicorn.Config(
                application,
                http=HttpToolsProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type] # seconds; a timer takes fractions
                timeout_graceful_shutdown=drain,  # type: ignore[arg-type] # the same
            )
        )
        self._server.capture_signals = nullcontext  # type: ignore[assignment,method-assign] # whoever runs it heeds signals
        self.ready = anyio.Event()
        """Set once it accepts connections."""

    @property
    def handlers(self) -> Sequence[LoadedHandler]:
        return self._worker.handlers

    @property
    def stats(self) -> dict[str, Stats]:
        return self._worker.stats

    @property
    def in_flight(self) -> int:
        """Requests that are being received or answered."""
        return self._application.in_flight

    async def lag(self) -> dict[str, int | None]:
        return await self._worker.lag()

    def stop(self) -> None:
        """Accept no more connections, finish open requests, and let `run` return."""
        self._server.should_exit = True

    def abandon(self) -> None:
        """Stop now, whatever is open."""
        self._server.should_exit = self._server.force_exit = True
        self._worker.abandon()

    async def run(self) -> bool:
        """Serve until stopped. Returns whether all open requests were finished within the deadline."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._say_ready)
            tasks.start_soon(self._close_silent)
            await self._server.serve(sockets=[self._listener])
            tasks.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint()  # what the server cancelled ends
        return not self._application.in_flight and not self._application.cut_off

    async def _say_ready(self) -> None:
        while not self._server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await anyio.sleep(0.005)
        self.ready.set()

    async def _close_silent(self) -> None:
        """Close connections on which no request comes along, or too slowly, or whose answer nobody reads."""
        since: dict[Any, float] = {}
        while True:
            await anyio.sleep(min(_LOOK, self._settings.receive_timeout / 2))
            now = time.monotonic()
            silent = [one for one in self._server.server_state.connections if _is_silent(one)]
            since = {one: since.get(one, now) for one in silent}
            for one, first in since.items():
                if now - first >= self._settings.receive_timeout:
                    one.transport.abort() if one.transport.is_closing() else one.transport.close()


def _is_silent(connection: Any) -> bool:
    """Whether a request is to come, and the time between two is not what is waited for; or only its end."""
    if connection.transport.is_closing():
        return True
    begun = connection.cycle is not None and not connection.cycle.response_complete
    return not begun and connection.timeout_keep_alive_task is None


def listen(host: str, port: int, *, share: bool = False) -> socket.socket:
    """A socket that listens.

    Args:
        host: A name or an address.
        port: 0 is any that is free.
        share: Others will listen at the same address, and the kernel deals connections out among them.

    Raises:
        ConfigError: somebody listens there already, or there is no such address here.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if share:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
    except OSError as exc:
        raise ConfigError(
            f"web.host, web.port: {HostPort(host, port)}: {exc.strerror or exc}; choose others with "
            "--host and --port"
        ) from exc
    return listener


def listen_together(host: str, port: int, workers: int) -> Iterator[socket.socket]:
    """A socket for each of several workers, all at one address.

    Each worker has a queue of connections of its own, which outlives it: its successor takes it over.

    Raises:
        ConfigError: as `listen`.
    """
    for _ in range(workers):
        one = listen(host, port, share=workers > 1)
        port = one.getsockname()[1]
        yield one


def address_of(listener: socket.socket) -> HostPort:
    return HostPort(*listener.getsockname()[:2])


@asynccontextmanager
async def web_worker(
    bus: Bus,
    listener: socket.socket,
    *,
    guard: Guard,
    only: Sequence[str] = (),
    metrics: Metrics | None = None,
    limits: HealthLimits | None = None,
) -> AsyncIterator[WebWorker]:
    """A web service ready to run: models loaded, lifespans entered, predictors ready to be asked.

    Raises:
        ConfigError: there is nothing to be asked.
        ModelError: a model cannot be loaded.
    """
    _allow_connections()
    application = Application(bus, guard=guard, only=only, metrics=metrics, limits=limits)
    async with application.lifespan():
        yield WebWorker(application, listener, bus.settings.web, bus.settings.drain)


def _allow_connections() -> None:
    """Let this process have as many connections open as it may."""
    with suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 - there is none on Windows

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def loop_options() -> dict[str, Any]:
    """What `anyio.run` is told: uvloop where it is installed, which an HTTP server gains by."""
    try:
        import uvloop  # noqa: F401, PLC0415 - to see whether it is there
    except ImportError:
        return {}
    return {"use_uvloop": True}
