"""The pages of the console by their paths, and who may see them."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from eventml import config
from eventml.deploy.console.broker import MAX_TAILS, Broker
from eventml.deploy.console.collector import Collector
from eventml.deploy.console.dead_letter_pages import Choice, DeadLetterPages
from eventml.deploy.console.dead_letters import count_left
from eventml.deploy.console.history import SPANS, History, HistoryFile
from eventml.deploy.console.html import FOLDER, Html, html, page
from eventml.deploy.console.numbers import loaded_models
from eventml.deploy.console.overview import Overview
from eventml.deploy.console.sessions import Session, Sessions
from eventml.deploy.console.topology import topology
from eventml.deploy.console.try_it import Form, ask, curl
from eventml.deploy.workers import Pages, Request, Response, ServiceStatus
from eventml.errors import EventMLError, UnavailableError
from eventml.runtime import dead_letter_queues

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from anyio.from_thread import BlockingPortal

    from eventml.bus import Bus
    from eventml.deploy.workers import OpenPages
    from eventml.handlers import Handler

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
_PRIVATE: Final = {"/dead-letters": "Dead letters", "/tail": "Live tail", "/try": "Try it"}
_NO_TOKEN: Final = Html(
    "<section><h2>Off</h2><p>Records are shown, and changed, only with the token of the service, and it has "
    "none. Set the environment variable <code>EVENTML_TOKEN</code> of the service to a secret, and restart "
    "it.</p></section>"
)
_PUBLISHED: Final = Html(
    "<p>The event is published like any other: all handlers of the topic see it, and its prediction goes to "
    "the topic of the output.</p>"
)
_LOG_IN: Final = Html(
    '<section><h2>Token</h2><form method="post" action="log-in"><label>Token of the service (EVENTML_TOKEN) '
    '<input type="password" name="token" required autocomplete="current-password"></label> '
    '<label>Your name, for the log <input name="name" autocomplete="name"></label> '
    "<button>Continue</button></form></section>"
)


def open_console(bus: Bus, worker: BlockingPortal | None = None, web: str | None = None) -> OpenPages:
    """Return what opens the console of a configured bus.

    Args:
        bus: The bus.
        worker: Runs coroutines in the event loop in which the bus is open in this process, if it is.
        web: Address of the bus's web service, if this is one.
    """

    @contextmanager
    def opened(status: Callable[[], ServiceStatus], max_lag: int | None) -> Iterator[Pages]:
        broker, file = Broker(bus, worker), bus.settings.console.history
        queues = dead_letter_queues(map(bus.configured_handler, bus.handlers))
        history = History(None if file is None else HistoryFile(Path(file), bus.name))
        collector = Collector(status, max_lag, history, lambda: broker.call(count_left, queues))
        token = os.environ.get("EVENTML_TOKEN", "").strip()
        with ExitStack() as stack:
            stack.enter_context(broker.running())
            stack.enter_context(collector.running())
            yield Console(bus, collector, broker, Sessions(token), web).answer

    return opened


class Console:
    """Answers the requests for the pages of a bus. Any thread may call it."""

    def __init__(
        self, bus: Bus, collector: Collector, broker: Broker, sessions: Sessions, web: str | None
    ) -> None:
        self._bus = bus
        self._collector = collector
        self._broker = broker
        self._sessions = sessions
        self._web = web
        self._nodes = topology(bus)
        backend = config.redact(bus.settings.backend.url)
        self._overview = Overview(bus, backend, self._nodes, collector)
        self._dead_letters = DeadLetterPages(bus, broker)
        self._public: dict[str, Callable[[Mapping[str, str]], Response]] = {
            "/": lambda _: _page(self._overview.page(collector.tick())),
            "/models": lambda _: _page(self._overview.models_page(collector.tick())),
            "/status": lambda _: self._json(msgspec.json.encode(collector.status())),
            "/live": lambda _: Response(self._live(), content_type=_EVENTS, headers=_HEADERS),
            "/history": self._history,
        }

    def answer(self, request: Request) -> Response | None:
        """Return the response to a request, or None if nothing is at its path."""
        url = urlsplit(request.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        if request.method == "POST":
            if not self._sessions.is_own(request):
                return _page(b"this form is not one of this console\n", HTTPStatus.FORBIDDEN)
            form = dict(parse_qsl(request.body.decode(errors="replace"), keep_blank_values=True))
            return self._post(url.path, form, request)
        path, name = url.path, url.path.removeprefix("/assets/")
        if path in self._public:
            return self._public[path](query)
        if path == "/tail-records" and self._sessions.find(request):
            return self._tail_records(query)
        if name != path and name in _ASSETS:
            return _asset(name)
        return self._private(path, query, request) if path in _PRIVATE else None

    def _json(self, body: bytes) -> Response:
        return Response(body, content_type="application/json", headers=_HEADERS)

    def _history(self, query: Mapping[str, str]) -> Response:
        span = query.get("span", "")
        return self._json(self._collector.columns(self._collector.tick(), span if span in SPANS else "5m"))

    def _live(self) -> Generator[bytes, None, None]:
        yield self._overview.message(tick := self._collector.tick())
        while (newer := self._collector.next_tick(tick.number)) is not None:
            tick = newer
            yield self._overview.message(tick)

    def _private(self, path: str, query: Mapping[str, str], request: Request) -> Response:
        session = self._sessions.find(request)
        if session is None:
            return self._refuse(path)
        try:
            match path:
                case "/dead-letters" if "one" in query:
                    content = self._dead_letters.one(Choice.parse(query["one"]))
                case "/dead-letters":
                    content = self._dead_letters.overview()
                case "/tail":
                    content = self._tail(query)
                case _:
                    content = self._try({}, query)
        except (EventMLError, ValueError) as exc:
            content = _problem(exc)
        return self._show(path, content, session)

    def _post(self, path: str, form: Mapping[str, str], request: Request) -> Response | None:
        if path == "/log-in":
            cookie = self._sessions.open(form.get("token", ""), form.get("name", ""), request)
            if cookie is None:
                return self._refuse("/dead-letters", "This is not the token of the service.")
            return Response(
                b"",
                HTTPStatus.SEE_OTHER,
                _HTML,
                {**_HEADERS, "location": "dead-letters", "set-cookie": cookie},
            )
        if path == "/log-out":
            return _redirect("./", self._sessions.close(request))
        if path not in _PRIVATE:
            return None
        session = self._sessions.find(request)
        if session is None:
            return self._refuse(path)
        try:
            if path == "/dead-letters":
                content = self._dead_letters.act(form, session.who)
                if form.get("confirmed"):
                    self._collector.count_now()
            else:
                content = self._try(form, form)
        except (EventMLError, ValueError) as exc:
            content = _problem(exc)
        return self._show(path, content, session)

    def _refuse(self, path: str, problem: str = "") -> Response:
        if not self._sessions.enabled:
            content, status = _NO_TOKEN, HTTPStatus.FORBIDDEN
        else:
            wrong = html('<p class="bad" role="alert">{problem}</p>', problem=problem) if problem else ""
            content, status = html("{wrong}{form}", wrong=wrong, form=_LOG_IN), HTTPStatus.UNAUTHORIZED
        return _page(page(self._bus.name, _PRIVATE[path], path[1:], content), status)

    def _show(self, path: str, content: Html, session: Session) -> Response:
        footer = html(
            '<form method="post" action="log-out"><p>{who} <button>Log out</button></p></form>',
            who=session.who,
        )
        whole = html("{content}{footer}", content=content, footer=footer)
        return _page(page(self._bus.name, _PRIVATE[path], path[1:], whole))

    # Live tail

    def _topics(self) -> list[str]:
        kinds = ("topic", "dead letters")
        return [node.name for node in self._nodes.values() if node.kind in kinds]

    def _tail(self, query: Mapping[str, str]) -> Html:
        options = [
            html(
                "<option{selected}>{topic}</option>",
                topic=topic,
                selected=Html(" selected") if topic == query.get("topic") else "",
            )
            for topic in self._topics()
        ]
        return html(
            '<section data-tail><h2>Live tail</h2><form><label>Topic <select name="topic">{options}</select>'
            '</label> <label>With the text <input name="text" value="{text}"></label> <button>Show</button> '
            '<button type="button" id="pause" aria-pressed="false">Pause</button></form>'
            '<p id="tail-state" role="status"></p><div id="records"></div></section>',
            options=options,
            text=query.get("text", ""),
        )

    def _tail_records(self, query: Mapping[str, str]) -> Response:
        topic = query.get("topic", "")
        if topic not in self._topics():
            return _page(b"the bus has no such topic\n", HTTPStatus.NOT_FOUND)
        if self._broker.tails >= MAX_TAILS:
            return _page(b"too many live tails are open\n", HTTPStatus.SERVICE_UNAVAILABLE)
        hidden = self._bus.settings.console.hidden_headers
        records = self._broker.tail(topic, query.get("text", ""), hidden)
        return Response(records, content_type=_EVENTS, headers=_HEADERS)

    # Try it

    def _try(self, form: Mapping[str, str], query: Mapping[str, str]) -> Html:
        names = [name for name, one in self._bus.handlers.items() if one.outputs and not one.champion]
        if not names:
            return Html("<section><p>The bus has no predictor.</p></section>")
        name = query.get("predictor", "")
        name = name if name in names else names[0]
        handler = self._bus.configured_handler(name)
        fields, answer = Form(self._bus, handler), Html("")
        if form:
            try:
                event = fields.event(form)
            except (ValueError, TypeError) as exc:
                answer = _problem(exc)
            else:
                version = loaded_models(self._collector.status()).get(name)
                answer = html(
                    "{answer}<p>model {version}</p><h3>The same with curl</h3><pre>{curl}</pre>",
                    answer=ask(lambda: self._ask(handler, event)),
                    version=version or "-",
                    curl=curl(handler, event, self._web),
                )
        links = [html('<a href="try?predictor={name}">{name}</a> ', name=one) for one in names]
        return html(
            '<section><h2>{name}</h2><p>{links}</p>{note}<form method="post" action="try" class="fields">'
            '<input type="hidden" name="predictor" value="{name}">{fields}'
            "<button>Send</button></form>{answer}</section>",
            name=name,
            links=links,
            note="" if self._web else _PUBLISHED,
            fields=fields.render(form),
            answer=answer,
        )

    def _ask(self, handler: Handler, event: bytes) -> Any:
        limit = self._bus.settings.web.timeout
        if self._web is None:
            decoded = msgspec.json.decode(event)
            return self._broker.request(handler.topic, decoded, handler.name, min(limit, 10.0))
        connection = HTTPConnection(self._web, timeout=limit)
        try:
            token = f"Bearer {os.environ.get('EVENTML_TOKEN', '').strip()}"
            headers = {"authorization": token, "content-type": "application/json"}
            connection.request("POST", f"/predict/{handler.name}", event, headers)
            return msgspec.json.decode(connection.getresponse().read())
        except (OSError, HTTPException) as exc:
            raise UnavailableError(f"the web service does not answer at {self._web}: {exc}") from exc
        finally:
            connection.close()


def _problem(error: Exception) -> Html:
    return html('<section><p class="bad" role="alert">{error}</p></section>', error=str(error) or "not valid")


def _page(body: bytes, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(body, status, _HTML, _HEADERS)


def _redirect(to: str, cookie: str) -> Response:
    return Response(b"", HTTPStatus.SEE_OTHER, _HTML, {**_HEADERS, "location": to, "set-cookie": cookie})


def _asset(name: str) -> Response:
    kind = guess_type(name)[0] or "text/plain"
    return Response((FOLDER / name).read_bytes(), content_type=f"{kind}; charset=utf-8", headers=_HEADERS)
