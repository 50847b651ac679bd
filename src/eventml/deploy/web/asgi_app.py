"""The ASGI app of the web service: its routes, the admission of requests, and the worker behind it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import anyio
from starlette.requests import ClientDisconnect
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from eventml.bus import Bus, asyncapi_document
from eventml.deploy.web.authentication import Authenticator
from eventml.deploy.web.events import BrokerConnection, EventsEndpoint, accepted_topics
from eventml.deploy.web.http_messages import Problem, encode, send_problem, send_response, unavailable
from eventml.deploy.web.openapi import PATHS, POLICY, describe, send_page
from eventml.deploy.web.predict import PredictEndpoint, served_predictors
from eventml.deploy.web.request_backend import RequestBackend, RequestDecoder
from eventml.deploy.workers import HealthLimits, ServiceStatus, answer_operations, watch_health
from eventml.printable import printable
from eventml.runtime import FailFast, Worker, find_tracing, load_handlers, task_group

log = logging.getLogger("eventml")

_GET: Final = (*PATHS, "/openapi.json", "/asyncapi.json", "/metrics", "/livez", "/readyz")


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

    `only` names the predictors to serve, all if it is empty. `metrics` returns the status, body and content
    type of `/metrics`, in place of those of this process. `limits` are for `/livez`.
    """

    def __init__(
        self,
        bus: Bus,
        authenticator: Authenticator,
        *,
        only: Sequence[str] = (),
        metrics: Callable[[], tuple[int, bytes, str]] | None = None,
        limits: HealthLimits | None = None,
    ) -> None:
        self.bus = bus
        self.worker: Worker | None = None  # None while the lifespan is not entered
        self.in_flight = 0  # requests that are being received or answered
        self._only = only
        self._authenticator = authenticator
        self._metrics = metrics
        self._limits = limits or HealthLimits()
        self._lifespan_messages = Router(lifespan=self.lifespan)
        self._endpoints: dict[str, ASGIApp] = {}
        self._status: Callable[[], ServiceStatus]
        self._openapi: dict[str, Any]
        self._asyncapi: dict[str, Any]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or handle the lifespan messages of a server."""
        if scope["type"] != "http":
            await self._lifespan_messages(scope, receive, send)
            return
        try:
            await self._serve(scope, receive, send)
        except Problem as problem:
            if problem.reason:
                log.warning("%s: %s", printable(scope["path"]), printable(problem.reason))
            await send_problem(send, problem)
        except ClientDisconnect:
            pass

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.worker is None:
            raise unavailable("the service has not been started: the app around it must enter its lifespan")
        path = scope["path"].removeprefix(scope.get("root_path", "")).removesuffix("/")
        if scope["method"] in ("GET", "HEAD") and path in _GET:
            if path in PATHS:  # without a token: the page has no data, and sends the token with its requests
                await send_page(path, scope, send)
                return
            answer = await self._get(path, scope)
            await send_response(send, *answer, {"content-security-policy": POLICY})
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

    async def _get(self, path: str, scope: Scope) -> tuple[int, bytes, str]:
        """Return the status, body and content type of a path in `_GET` that is not of the page."""
        if path in ("/livez", "/readyz"):
            status, body, content_type = answer_operations(path, self._status)
            if status != HTTPStatus.OK and not self._authenticator.accepts(scope):
                body = b"not ready; send the token of the service to see why\n"
            return status, body, content_type
        self._authenticator.check(scope)
        if path == "/metrics":
            if self._metrics is None:
                return answer_operations(path, self._status)
            return await anyio.to_thread.run_sync(self._metrics)
        if path == "/asyncapi.json":
            return HTTPStatus.OK, encode(self._asyncapi), "application/json"
        root = scope.get("root_path")  # where the app around has mounted this one
        document = {**self._openapi, "servers": [{"url": root}]} if root else self._openapi
        return HTTPStatus.OK, encode(document), "application/json"

    def _no_route(self, path: str) -> Problem:
        if path in self._endpoints or path in _GET:
            allowed = "POST" if path in self._endpoints else "GET, HEAD"
            return Problem(HTTPStatus.METHOD_NOT_ALLOWED, f"use {allowed}", headers={"allow": allowed})
        known = ", ".join(sorted(self._endpoints))
        advice = "; web.extra_topics allows further topics" if path.startswith("/events/") else ""
        return Problem(HTTPStatus.NOT_FOUND, f"nothing is at {path}; there are: {known}, /docs{advice}")

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Load the models, enter the lifespans of the bus, and run the worker until left.

        Frameworks pass the app around, which is not used.

        Raises:
            ConfigError: the bus has no predictor to serve.
            ModelError: a model cannot be loaded.
            RegistrationError: a handler has a parameter without a value.
        """
        del app
        bus, settings = self.bus, self.bus.settings
        async with AsyncExitStack() as stack:
            predictors = served_predictors(bus, self._only)
            # Answers are JSON, whatever the formats of the topics.
            loaded = await load_handlers(
                stack, predictors, bus.lifespans, [(RequestDecoder(Any), {})] * len(predictors)
            )
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
            self._status = await stack.enter_async_context(watch_health(bus.name, worker, self._limits))
            background = await stack.enter_async_context(task_group())
            async with task_group() as running:
                running.start_soon(worker.run)
                await worker.ready.wait()
                topics = accepted_topics(bus)
                connection = BrokerConnection(bus, background, worker.outages)
                for topic, event_type in topics.items():
                    self._endpoints[f"/events/{topic}"] = EventsEndpoint(connection, topic, event_type)
                for one in loaded:
                    queue = backend.queues[one.handler.options.group]
                    endpoint = PredictEndpoint(bus, one, queue, traced=tracing is not None)
                    self._endpoints[f"/predict/{one.handler.name}"] = endpoint
                token = self._authenticator.requires_token
                self._openapi = describe(bus.name, predictors, topics, settings.web, token=token)
                self._asyncapi = asyncapi_document(bus)
                self.worker = worker
                try:
                    yield
                finally:
                    self.worker = None
                    worker.stop()
                    if worker.in_flight and not self.in_flight:
                        worker.abandon()  # the requests of these events have left
            background.cancel_scope.cancel()
