"""The pages of the console by their paths, and the check of the token."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import msgspec

from eventml.deploy.console.broker import Broker
from eventml.deploy.console.collector import Collector
from eventml.deploy.console.dead_letter_pages import DeadLetterPages
from eventml.deploy.console.dead_letters import count_left
from eventml.deploy.console.history import History, HistoryFile
from eventml.deploy.console.html import FOLDER, Html, page, part
from eventml.deploy.console.overview import Overview
from eventml.deploy.console.sessions import Session, Sessions, is_own
from eventml.deploy.console.try_it import TryIt
from eventml.deploy.workers import Pages, Request, Response, ServiceStatus
from eventml.errors import EventMLError
from eventml.runtime import dead_letter_queues

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from anyio.from_thread import BlockingPortal

    from eventml.bus import Bus
    from eventml.deploy.workers import OpenPages

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
        self._overview = Overview(bus, collector)
        self._dead_letters = DeadLetterPages(bus, broker)
        self._public: dict[str, Callable[[Mapping[str, str]], Response]] = {
            "/": lambda _: _page(self._overview.page(collector.tick())),
            "/models": lambda _: _page(self._overview.models_page(collector.tick())),
            "/status": lambda _: _json(msgspec.json.encode(collector.status())),
            "/live": lambda _: Response(self._live(), content_type=_EVENTS, headers=_HEADERS),
            "/history": lambda query: _json(collector.columns(collector.tick(), query.get("span", ""))),
        }

    def answer(self, request: Request) -> Response | None:
        """Return the response to a request, or None if nothing is at its path."""
        path, _, text = request.path.partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True))
        if request.method == "POST":
            if not is_own(request):
                return _page(b"this form is not one of this console\n", HTTPStatus.FORBIDDEN)
            form = dict(parse_qsl(request.body.decode(errors="replace"), keep_blank_values=True))
            return self._post(path, form, request)
        if path in self._public:
            return self._public[path](query)
        if path == "/tail-records" and self._sessions.find(request):
            return self._tail_records(query)
        if (name := path.removeprefix("/assets/")) in _ASSETS:
            return _asset(name)
        return self._private(path, query, None, request)

    def _post(self, path: str, form: Mapping[str, str], request: Request) -> Response | None:
        if path == "/log-in":
            cookie = self._sessions.open(form.get("token", ""), form.get("name", ""), request)
            return _redirect("dead-letters", cookie) if cookie else self._refuse("/dead-letters", wrong=True)
        if path == "/log-out":
            return _redirect("./", self._sessions.close(request))
        return self._private(path, {}, form, request)

    def _live(self) -> Generator[bytes, None, None]:
        yield self._overview.message(tick := self._collector.tick())
        while (newer := self._collector.next_tick(tick.number)) is not None:
            tick = newer
            yield self._overview.message(tick)

    def _private(
        self, path: str, query: Mapping[str, str], form: Mapping[str, str] | None, request: Request
    ) -> Response | None:
        if path not in _PRIVATE:
            return None
        if (session := self._sessions.find(request)) is None:
            return self._refuse(path)
        try:
            content = self._content(path, query, form, session)
        except (EventMLError, ValueError, RecursionError) as exc:
            content = part("problem", error=str(exc) or "not valid")
        return self._show(path, part("both", one=content, other=part("log-out", who=session.who)))

    def _content(
        self, path: str, query: Mapping[str, str], form: Mapping[str, str] | None, session: Session
    ) -> Html:
        match path:
            case "/dead-letters" if form is not None:
                content = self._dead_letters.act(form, session.who)
                if form.get("confirmed"):
                    self._collector.count_now()
                return content
            case "/dead-letters":
                return self._dead_letters.page(query.get("one"))
            case "/tail":
                return self._tail(query)
            case _:
                return self._try_it.page(form or {}, form or query, session.who)

    def _refuse(self, path: str, *, wrong: bool = False) -> Response:
        if not self._sessions.enabled:
            return self._show(path, part("no-token"), HTTPStatus.FORBIDDEN)
        content = part("log-in", problem=part("wrong") if wrong else "")
        return self._show(path, content, HTTPStatus.UNAUTHORIZED)

    def _show(self, path: str, content: Html, status: HTTPStatus = HTTPStatus.OK) -> Response:
        return _page(page(self._bus.name, path[1:], content), status)

    def _tail(self, query: Mapping[str, str]) -> Html:
        selected = {query.get("topic", ""): Html(" selected")}
        options = [part("option", name=one, selected=selected.get(one, "")) for one in self._overview.topics]
        return part("tail", options=options, text=query.get("text", ""))

    def _tail_records(self, query: Mapping[str, str]) -> Response:
        if (topic := query.get("topic", "")) not in self._overview.topics:
            return _page(b"the bus has no such topic\n", HTTPStatus.NOT_FOUND)
        hidden = self._bus.settings.console.hidden_headers
        records = self._broker.tail(topic, query.get("text", ""), hidden)
        return Response(records, content_type=_EVENTS, headers=_HEADERS)


def _page(body: bytes, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(body, status, _HTML, _HEADERS)


def _json(body: bytes) -> Response:
    return Response(body, content_type="application/json", headers=_HEADERS)


def _redirect(to: str, cookie: str) -> Response:
    return Response(b"", HTTPStatus.SEE_OTHER, _HTML, {**_HEADERS, "location": to, "set-cookie": cookie})


def _asset(name: str) -> Response:
    kind, headers = guess_type(name)[0], {**_HEADERS, "cache-control": "max-age=600"}
    return Response((FOLDER / name).read_bytes(), content_type=f"{kind}; charset=utf-8", headers=headers)
