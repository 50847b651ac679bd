"""The web service as an ASGI app: its routes, its limits, and the worker behind it."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, Router

from eventml.deploy.web.answers import encode, send_problem
from eventml.deploy.web.connecting import connecting, leads_elsewhere
from eventml.deploy.web.desk import Desk
from eventml.deploy.web.events import Announcing
from eventml.deploy.web.jobs import loaded_handlers, predictors, topics
from eventml.deploy.web.openapi import describe
from eventml.deploy.web.predicting import Predicting
from eventml.deploy.web.problems import Problem, overloaded
from eventml.deploy.web.requests import Gone
from eventml.deploy.workers import HealthLimits, InProcessHealth, OperationsEndpoints
from eventml.runtime import FailFast, Worker, find_tracing, task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from eventml.bus import Bus
    from eventml.deploy.web.connecting import Connection
    from eventml.deploy.web.tokens import Guard

    Metrics = Callable[[str], tuple[int, bytes, str]]

log = logging.getLogger("eventml")

_PAGE: Final = Path(__file__).with_name("page.html")
_PAGE_MAY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Application:
    """A bus's predictors over HTTP. It is called as an ASGI app, on asyncio.

    It works while its lifespan is entered: by the server, or by the app that it is mounted in
    (`FastAPI(lifespan=application.lifespan)`), as servers know nothing of what is mounted.

    Args:
        bus: Whose predictors and topics.
        only: The predictors that can be asked; all of them where there are none.
        guard: Who may ask.
        metrics: Answers `/metrics` in place of this process: its status, body and content type.
        limits: When its worker cannot be called alive any more.

    Attributes:
        in_flight: Requests that are being received or answered.
        cut_off: Requests that were not answered because the service had to end.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        guard: Guard,
        only: Sequence[str] = (),
        metrics: Metrics | None = None,
        limits: HealthLimits | None = None,
    ) -> None:
        self._bus = bus
        self._only = only
        self._guard = guard
        self._metrics = metrics
        self._limits = limits or HealthLimits()
        self._predicting: dict[str, ASGIApp] = {}
        self._announcing: dict[str, ASGIApp] = {}
        self._direct: dict[str, ASGIApp] = {}
        self._operations: OperationsEndpoints
        self._description: dict[str, Any] = {}
        self.worker: Worker | None = None
        self.in_flight = self.cut_off = 0
        self._router = Router(
            [
                Route("/predict/{name}", _ByName("predictor", self._predicting), methods=["POST"]),
                Route("/events/{name}", _ByName("topic", self._announcing), methods=["POST"]),
                Route("/openapi.json", self._describe),
                Route("/docs", self._show),
                *(Route(path, self._tell) for path in ("/livez", "/readyz", "/metrics")),
            ],
            default=_not_found,
            lifespan=self.lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        try:
            await self._serve(scope, receive, send)
        except Problem as problem:
            if problem.reason:
                log.warning("%s: %s", scope["path"], problem.reason)
            await send_problem(send, problem)
        except Gone:
            pass

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.worker is None:
            raise overloaded("the service has not been started: its lifespan must be entered")
        if scope["method"] != "POST":
            await self._router(scope, receive, send)
            return
        self._guard.check(scope)
        most = self._bus.settings.web.max_requests
        if self.in_flight >= most:
            raise overloaded(f"{most} requests are in hand, the most there may be (web.max_requests)")
        self.in_flight += 1
        # What is asked most is found at once; the router knows of mounting, escapes and all else.
        asked = self._direct.get(scope["path"], self._router)
        try:
            await asked(scope, receive, send)
        except anyio.get_cancelled_exc_class() as exc:
            self.cut_off += 1
            raise overloaded("the service ended before this was answered") from exc
        finally:
            self.in_flight -= 1

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Around all its work: models loaded, lifespans entered, the predictors ready to be asked.

        Args:
            app: The app around, if there is one; nothing is asked of it.

        Raises:
            ConfigError: there is nothing to be asked.
            ModelError: a model cannot be loaded.
        """
        del app
        settings = self._bus.settings
        async with AsyncExitStack() as stack:
            handlers = predictors(self._bus, self._only)
            jobs = await loaded_handlers(stack, self._bus, handlers)
            desk = Desk(settings.web.max_waiting)
            tracing = find_tracing(settings.tracing, "http")
            worker = Worker(
                desk,
                jobs,
                source=self._bus.name,
                drain=settings.drain,
                failure_policy=FailFast,
                tracing=tracing,
            )
            health = InProcessHealth(self._bus.name, worker, self._limits)
            self._operations = OperationsEndpoints(health.status)
            connection = await stack.enter_async_context(connecting(self._bus))
            watching = await stack.enter_async_context(task_group())
            watching.start_soon(health.run)
            async with task_group() as working:
                working.start_soon(worker.run)
                await worker.ready.wait()
                self._open(worker, desk, connection, traced=tracing is not None)
                try:
                    yield
                finally:
                    self.worker = None
                    worker.stop()
                    if worker.in_flight and not self.in_flight:
                        worker.abandon()  # nobody waits for it any more
            watching.cancel_scope.cancel()

    def _open(self, worker: Worker, desk: Desk, connection: Connection, *, traced: bool) -> None:
        bus, limits = self._bus, self._bus.settings.web
        for job in worker.handlers:
            handler = job.handler
            queue, id_field = desk.queues[handler.options.group], bus.configured_topic(handler.topic).id_field
            self._predicting[handler.name] = Predicting(job, queue, limits, id_field, traced=traced)
        self._direct = {f"/predict/{name}": app for name, app in self._predicting.items()}
        known = topics(bus)
        reaches = leads_elsewhere(bus)
        for name, kind in known.items():
            self._announcing[name] = (
                Announcing(name, bus.configured_topic(name), kind, connection, limits)
                if reaches
                else _nobody_reads
            )
        self._description = describe(
            bus.name,
            [job.handler for job in worker.handlers],
            known,
            limits,
            version=version("eventml"),
            token=self._guard.wants_token,
        )
        self.worker = worker

    # What is asked by GET

    async def _describe(self, request: Request) -> Response:
        self._guard.check(request.scope)
        where = request.scope.get("root_path")  # where the app around has mounted it
        body = encode({**self._description, **({"servers": [{"url": where}]} if where else {})})
        return Response(body, media_type="application/json")

    async def _show(self, request: Request) -> Response:
        del request  # the page itself tells nothing; what it shows, it asks with the token
        return HTMLResponse(_PAGE.read_bytes(), headers={"content-security-policy": _PAGE_MAY})

    async def _tell(self, request: Request) -> Response:
        path, accept = request.url.path, request.headers.get("accept", "")
        path = path[path.rindex("/") :]
        knows = self._guard.knows(request.scope)
        if path == "/metrics":
            self._guard.check(request.scope)
            if self._metrics is not None:
                status, body, kind = await anyio.to_thread.run_sync(self._metrics, accept)
                return Response(body, status, media_type=kind)
        status, body, kind = self._operations.answer(path, accept)
        if not knows and status != HTTPStatus.OK:
            body = b"not now; with the token it says why\n"
        return Response(body, status, media_type=kind)


class _ByName:
    """Hands a request to the one that its path names.

    Args:
        what: What kind they are.
        known: Those there are.
    """

    def __init__(self, what: str, known: dict[str, ASGIApp]) -> None:
        self._what = what
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"]
        if name not in self._known:
            there = ", ".join(sorted(self._known)) or "none"
            raise Problem(HTTPStatus.NOT_FOUND, f"no {self._what} is named {name!r}; there are: {there}")
        await self._known[name](scope, receive, send)


async def _nobody_reads(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive, send
    raise Problem(
        HTTPStatus.NOT_IMPLEMENTED,
        "the bus lives in this process, where nobody reads it; name a backend that processes share, with "
        "--backend redis://... or kafka://..., EVENTML_BACKEND or eventml.toml",
    )


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    del receive, send
    if scope["type"] == "http":
        raise Problem(HTTPStatus.NOT_FOUND, "there are /predict/<predictor>, /events/<topic> and /docs")
