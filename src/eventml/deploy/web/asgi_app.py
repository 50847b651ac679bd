"""The ASGI app of the web service: its routes, the admission of requests, and the worker behind it."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Router

from eventml.bus import Bus
from eventml.deploy.web.authentication import Authenticator
from eventml.deploy.web.events import BrokerConnection, EventsEndpoint
from eventml.deploy.web.handlers import load_predictors, served_predictors, topic_types
from eventml.deploy.web.openapi import describe
from eventml.deploy.web.predict import PredictEndpoint
from eventml.deploy.web.request_backend import RequestBackend
from eventml.deploy.web.requests import ClientDisconnectedError, EventDecoder
from eventml.deploy.web.responses import Problem, encode, send_problem, unavailable
from eventml.deploy.workers import HealthLimits, InProcessHealth, OperationsEndpoints
from eventml.runtime import FailFast, LoadedHandler, Worker, find_tracing, task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

    MetricsSource = Callable[[str], tuple[int, bytes, str]]
    """Returns the status, body and content type of `/metrics` for the header `accept`."""

log = logging.getLogger("eventml")

_PAGE: Final = Path(__file__).with_name("page.html")
_PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def application(bus: Bus, *, only: Sequence[str], authenticate: bool) -> WebService:
    """Return the web service of a bus as an ASGI app; see `Bus.asgi`."""
    authenticator = (
        Authenticator.from_environment() if authenticate else Authenticator(None, without_token=True)
    )
    return WebService(bus, authenticator, only=only)


class WebService:
    """An ASGI app that serves the predictors of a bus over HTTP. It runs on asyncio.

    It answers while its lifespan is entered. A server enters the lifespan of the app that it is given; where
    this one is mounted in another app, that has to do it: `FastAPI(lifespan=application.lifespan)`.

    Args:
        bus: The bus.
        authenticator: Decides which requests are answered.
        only: Names of the predictors to serve; empty for all.
        metrics: Source of `/metrics`, in place of the metrics of this process.
        limits: Limits of the worker's health, for `/livez`.

    Attributes:
        bus: The bus.
        worker: The worker that answers; None while the lifespan is not entered.
        in_flight: Number of requests that are being received or answered.
    """

    def __init__(
        self,
        bus: Bus,
        authenticator: Authenticator,
        *,
        only: Sequence[str] = (),
        metrics: MetricsSource | None = None,
        limits: HealthLimits | None = None,
    ) -> None:
        self.bus = bus
        self._only = only
        self._authenticator = authenticator
        self._metrics = metrics
        self._limits = limits or HealthLimits()
        self._endpoints: dict[str, ASGIApp] = {}
        self._pages: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/docs": self._get_page,
            "/openapi.json": self._get_openapi,
            "/metrics": self._get_metrics,
            "/livez": self._get_health,
            "/readyz": self._get_health,
        }
        self._operations: OperationsEndpoints
        self._openapi: dict[str, Any] = {}
        self._lifespan_messages = Router(lifespan=self.lifespan)
        self.worker: Worker | None = None
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or handle the lifespan messages of a server."""
        if scope["type"] != "http":
            await self._lifespan_messages(scope, receive, send)
            return
        try:
            await self._serve(scope, receive, send)
        except Problem as problem:
            if problem.reason:
                log.warning("%s: %s", scope["path"], problem.reason)
            await send_problem(send, problem)
        except ClientDisconnectedError:
            pass

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.worker is None:
            raise unavailable("the service has not been started: the app around it must enter its lifespan")
        path = scope["path"].removeprefix(scope.get("root_path", "")).removesuffix("/")
        if scope["method"] in ("GET", "HEAD") and path in self._pages:
            response = await self._pages[path](Request(scope))
            await response(scope, receive, send)
            return
        self._authenticator.check(scope)
        if scope["method"] != "POST" or path not in self._endpoints:
            raise self._no_route(path)
        limit = self.bus.settings.web.max_requests
        if self.in_flight >= limit:
            raise unavailable(f"{limit} requests are in flight, which is the limit (web.max_requests)")
        self.in_flight += 1
        try:
            await self._endpoints[path](scope, receive, send)
        finally:
            self.in_flight -= 1

    def _no_route(self, path: str) -> Problem:
        if path in self._endpoints or path in self._pages:
            allowed = "POST" if path in self._endpoints else "GET, HEAD"
            return Problem(HTTPStatus.METHOD_NOT_ALLOWED, f"use {allowed}", headers={"allow": allowed})
        for kind, prefix in (("predictor", "/predict/"), ("topic", "/events/")):
            if path.startswith(prefix):
                names = sorted(one.removeprefix(prefix) for one in self._endpoints if one.startswith(prefix))
                error = f"no {kind} is named {path.removeprefix(prefix)!r}"
                return Problem(HTTPStatus.NOT_FOUND, f"{error}; there are: {', '.join(names) or 'none'}")
        return Problem(HTTPStatus.NOT_FOUND, "there are /predict/<predictor>, /events/<topic> and /docs")

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Load the models, enter the lifespans of the bus, and run the worker until left.

        Args:
            app: The app around, which frameworks pass. It is not used.

        Raises:
            ConfigError: the bus has no predictor to serve.
            ModelError: a model cannot be loaded.
        """
        del app
        bus, settings = self.bus, self.bus.settings
        async with AsyncExitStack() as stack:
            loaded = await load_predictors(stack, bus, served_predictors(bus, self._only))
            backend = RequestBackend(settings.web.max_waiting)
            tracing = find_tracing(settings.tracing, "http")
            worker = Worker(
                backend,
                loaded,
                source=bus.name,
                drain=settings.drain,
                failure_policy=FailFast,
                tracing=tracing,
            )
            health = InProcessHealth(bus.name, worker, self._limits)
            self._operations = OperationsEndpoints(health.status)
            background = await stack.enter_async_context(task_group())
            background.start_soon(health.run)
            async with task_group() as running:
                running.start_soon(worker.run)
                await worker.ready.wait()
                self._add_endpoints(
                    loaded, backend, BrokerConnection(bus, background), traced=tracing is not None
                )
                self._openapi = describe(
                    bus.name,
                    [one.handler for one in loaded],
                    topic_types(bus),
                    settings.web,
                    version=version("eventml"),
                    token=self._authenticator.requires_token,
                )
                self.worker = worker
                try:
                    yield
                finally:
                    self.worker = None
                    worker.stop()
                    if worker.in_flight and not self.in_flight:
                        worker.abandon()  # the requests of these events have left
            background.cancel_scope.cancel()

    def _add_endpoints(
        self,
        loaded: Sequence[LoadedHandler],
        backend: RequestBackend,
        connection: BrokerConnection,
        *,
        traced: bool,
    ) -> None:
        bus, limits = self.bus, self.bus.settings.web
        for one in loaded:
            handler = one.handler
            decoder = EventDecoder(handler.event_type, bus.configured_topic(handler.topic).id_field)
            queue = backend.queues[handler.options.group]
            endpoint = PredictEndpoint(one, queue, decoder, limits, traced=traced)
            self._endpoints[f"/predict/{handler.name}"] = endpoint
        for name, event_type in topic_types(bus).items():
            topic = bus.configured_topic(name)
            decoder = EventDecoder(event_type, topic.id_field)
            self._endpoints[f"/events/{name}"] = EventsEndpoint(
                name, topic.codec, decoder, connection, limits
            )

    async def _get_openapi(self, request: Request) -> Response:
        self._authenticator.check(request.scope)
        root = request.scope.get("root_path")  # where the app around has mounted this one
        body = {**self._openapi, "servers": [{"url": root}]} if root else self._openapi
        return Response(encode(body), media_type="application/json")

    async def _get_page(self, request: Request) -> Response:
        del request  # no token is needed: the page holds no data, and sends the token with its own requests
        return HTMLResponse(_PAGE.read_bytes(), headers={"content-security-policy": _PAGE_POLICY})

    async def _get_metrics(self, request: Request) -> Response:
        self._authenticator.check(request.scope)
        accept = request.headers.get("accept", "")
        if self._metrics is None:
            return _respond(*self._operations.answer("/metrics", accept))
        return _respond(*await anyio.to_thread.run_sync(self._metrics, accept))

    async def _get_health(self, request: Request) -> Response:
        path = request.url.path.removesuffix("/")
        status, body, content_type = self._operations.answer(path[path.rindex("/") :])
        if status != HTTPStatus.OK and not self._authenticator.accepts(request.scope):
            body = b"not ready; send the token of the service to see why\n"
        return _respond(status, body, content_type)


def _respond(status: int, body: bytes, content_type: str) -> Response:
    return Response(body, status, media_type=content_type)
