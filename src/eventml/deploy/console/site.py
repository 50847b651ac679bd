"""The pages of the console by their paths, and the check of the token."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import msgspec

from eventml.bus import Bus
from eventml.deploy.console.broker import Broker
from eventml.deploy.console.collector import Collector
from eventml.deploy.console.dead_letters import DeadLetterPages, count_left
from eventml.deploy.console.history import History, HistoryFile
from eventml.deploy.console.live_pages import LivePages
from eventml.deploy.console.sessions import Session, Sessions, is_own
from eventml.deploy.console.templates import TITLES, Content, render
from eventml.deploy.console.try_it import TryIt
from eventml.deploy.workers import OpenPages, Pages, Request, Response, ServiceStatus
from eventml.errors import EventMLError
from eventml.runtime import dead_letter_queues

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

_FOLDER: Final = Path(__file__).parent / "assets"
_ASSETS: Final = ("console.js", "console.css", "uPlot.iife.min.js", "uPlot.min.css")
_HTML: Final = "text/html; charset=utf-8"
_EVENTS: Final = "text/event-stream"
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
_PRIVATE: Final = ("/dead-letters", "/tail", "/try")


def open_console(bus: Bus, worker: BlockingPortal | None = None, web: str | None = None) -> OpenPages:
    """Return what opens the console of a configured bus.

    `worker` runs coroutines in the event loop in which the bus is open in this process, if it is. `web` is
    the address of the bus's web service, if this is one.
    """

    @contextmanager
    def opened(status: Callable[[], ServiceStatus], max_lag: int | None) -> Iterator[Pages]:
        broker, file = Broker(bus, worker), bus.settings.console.history
        queues = dead_letter_queues(map(bus.configured_handler, bus.handlers))
        history = History(None if file is None else HistoryFile(Path(file), bus.name))
        collector = Collector(status, max_lag, history, lambda: broker.call(count_left, queues))
        token = os.environ.get("EVENTML_TOKEN", "").strip()
        with ExitStack() as stack:
            stack.enter_context(collector.running())
            stack.enter_context(broker.running())
            try_it = TryIt(bus, collector, broker, token, web)
            yield Console(bus, collector, broker, Sessions(token), try_it).answer

    return opened


class Console:
    """Answers the requests for the pages of a bus. Any thread may call it."""

    def __init__(
        self, bus: Bus, collector: Collector, broker: Broker, sessions: Sessions, try_it: TryIt
    ) -> None:
        self._bus = bus
        self._collector = collector
        self._broker = broker
        self._sessions = sessions
        self._try_it = try_it
        self._live = LivePages(bus, collector)
        self._dead_letters = DeadLetterPages(bus, broker)

    def answer(self, request: Request) -> Response | None:
        """Return the response to a request, or None if nothing is at its path."""
        path, _, text = request.path.partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True))
        if request.method == "POST":
            if not is_own(request):
                return _page("this form is not one of this console\n", HTTPStatus.FORBIDDEN)
            form = dict(parse_qsl(request.body.decode(errors="replace"), keep_blank_values=True))
            return self._post(path, form, request)
        if (name := path.removeprefix("/assets/")) in _ASSETS:
            return _asset(name)
        return self._public(path, query, request) or self._private(path, query, None, request)

    def _public(self, path: str, query: Mapping[str, str], request: Request) -> Response | None:
        if (found := self._live.find(path, query)) is not None:
            return _page(self._live.page(*found))
        match path:
            case "/live" if found := self._live.find(query.get("path", "/"), query):
                return Response(self._live.messages(*found), content_type=_EVENTS, headers=_HEADERS)
            case "/status":
                return _json(msgspec.json.encode(self._collector.status()))
            case "/history":
                return _json(self._collector.columns(self._collector.tick(), query.get("span", "")))
            case "/tail-records" if self._sessions.find(request):
                return self._tail_records(query)
        return None

    def _post(self, path: str, form: Mapping[str, str], request: Request) -> Response | None:
        if path == "/log-in":
            cookie = self._sessions.open(form.get("token", ""), form.get("name", ""), request)
            return _redirect("dead-letters", cookie) if cookie else self._refuse("/dead-letters", wrong=True)
        if path == "/log-out":
            return _redirect("./", self._sessions.close(request))
        return self._private(path, {}, form, request)

    def _private(
        self, path: str, query: Mapping[str, str], form: Mapping[str, str] | None, request: Request
    ) -> Response | None:
        if path not in _PRIVATE:
            return None
        if (session := self._sessions.find(request)) is None:
            return self._refuse(path)
        try:
            template, values = self._content(path, query, form, session)
        except (EventMLError, ValueError, RecursionError) as exc:
            template, values = "page", {"error": str(exc) or "not valid"}
        return self._show(path, template, who=session.who, **values)

    def _content(
        self, path: str, query: Mapping[str, str], form: Mapping[str, str] | None, session: Session
    ) -> Content:
        match path:
            case "/dead-letters" if form is not None:
                content = self._dead_letters.act(form, session.who)
                if form.get("confirmed"):
                    self._collector.count_now()
                return content
            case "/dead-letters":
                return self._dead_letters.page(query.get("one"))
            case "/tail":
                chosen = {name: query.get(name, "") for name in ("topic", "text")}
                return "tail", {"topics": self._live.topics, **chosen}
            case _:
                return self._try_it.page(form or {}, form or query, session.who)

    def _refuse(self, path: str, *, wrong: bool = False) -> Response:
        enabled = self._sessions.enabled
        status = HTTPStatus.UNAUTHORIZED if enabled else HTTPStatus.FORBIDDEN
        return self._show(path, "log_in", status, enabled=enabled, wrong=wrong)

    def _show(self, path: str, template: str, status: HTTPStatus = HTTPStatus.OK, **values: Any) -> Response:
        return _page(render(template, bus=self._bus.name, path=path, title=TITLES[path], **values), status)

    def _tail_records(self, query: Mapping[str, str]) -> Response:
        if (topic := query.get("topic", "")) not in self._live.topics:
            return _page("the bus has no such topic\n", HTTPStatus.NOT_FOUND)
        hidden = self._bus.settings.console.hidden_headers
        records = self._broker.tail(topic, query.get("text", ""), hidden)
        return Response(records, content_type=_EVENTS, headers=_HEADERS)


def _page(body: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(body.encode(), status, _HTML, _HEADERS)


def _json(body: bytes) -> Response:
    return Response(body, content_type="application/json", headers=_HEADERS)


def _redirect(to: str, cookie: str) -> Response:
    return Response(b"", HTTPStatus.SEE_OTHER, _HTML, {**_HEADERS, "location": to, "set-cookie": cookie})


def _asset(name: str) -> Response:
    kind, headers = guess_type(name)[0], {**_HEADERS, "cache-control": "max-age=600"}
    return Response((_FOLDER / name).read_bytes(), content_type=f"{kind}; charset=utf-8", headers=headers)
