"""The console under hostile requests, records and history files."""

from __future__ import annotations

import enum
import http.client
import json
import logging
import socket
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest

from eventml import Bus, Record, config
from eventml.deploy.console import Snapshot, open_console
from eventml.deploy.console.broker import Broker
from eventml.deploy.console.dead_letters import Cause, Choice, DeadLetterPages
from eventml.deploy.console.history import History, HistoryFile
from eventml.deploy.console.templates import render
from eventml.deploy.console.try_it import Form
from eventml.deploy.workers import HostPort, ServiceStatus, serve_status
from eventml.errors import UnavailableError
from tests.console.conftest import dead_letters, publish
from tests.console.test_numbers import status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "tök€n"  # noqa: S105 - of the tests


class Order(msgspec.Struct):
    id: str


def bus_of(name: str) -> Bus:
    bus = Bus(name)
    bus.topic(f"{name}.orders", event_type=Order)

    @bus.predictor(f"{name}.orders", to=f"{name}.risks")
    def risk(order: Order) -> Order:
        return order

    return bus


@contextmanager
def console(bus: Bus, monkeypatch: pytest.MonkeyPatch, url: str = "memory://") -> Iterator[HostPort]:
    """The console of a bus, without a service."""
    monkeypatch.setenv("EVENTML_TOKEN", TOKEN)
    bus.configure(config.load(environ={"EVENTML_BACKEND": url}))
    empty = ServiceStatus(bus=bus.name, workers=[])
    with serve_status(lambda: empty, HostPort(port=0), None, open_console(bus)) as address:
        yield address


def ask(address: HostPort, method: str, path: str, body: bytes = b"", **headers: Any) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def send(address: HostPort, request: bytes) -> bytes:
    """Send bytes to a console, and return the first line of what it answers."""
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        connection.sendall(request)
        return connection.makefile("rb").readline().rstrip()


BEARER = {"authorization": f"Bearer {TOKEN}".encode()}


def test_the_overview_of_a_bus_without_handlers_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with console(Bus("b"), monkeypatch) as address:
        code, text = ask(address, "GET", "/")
    assert code == 200
    assert "0 of 0 workers ready" in text


def test_a_token_may_be_any_text(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with console(Bus("b"), monkeypatch) as address:
        assert ask(address, "GET", "/try", **BEARER)[0] == 200
        form = b"token=t%C3%B6k%E2%82%ACn"
        assert ask(address, "POST", "/log-in", form, origin=f"http://{address}")[0] == 303
        assert "a wrong token" not in caplog.text
        wrong = "Bearer t\xf6k\x80n".encode("latin-1")
        assert ask(address, "GET", "/try", authorization=wrong)[0] == 401
    assert "console: a wrong token from 127.0.0.1" in caplog.text
    assert TOKEN not in caplog.text


def test_a_token_that_is_not_utf_8_does_not_end_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    with console(Bus("b"), monkeypatch), monkeypatch.context() as changed:
        changed.setattr("tests.console.test_hostile_requests.TOKEN", "caf\udce9")
        with console(Bus("b"), changed) as address:
            assert ask(address, "GET", "/try", authorization=b"Bearer caf\xe9")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://[", "null", ""])
def test_credentials_that_a_browser_adds_by_itself_open_no_form_to_other_sites(
    monkeypatch: pytest.MonkeyPatch, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    with console(Bus("b"), monkeypatch) as address:
        cookie = {"authorization": "Basic eDp5", "cookie": f"eventml-console-{address.port}=x"}
        assert ask(address, "POST", "/dead-letters", b"x=y", origin=origin, **cookie)[0] == 403
    assert "Traceback" not in caplog.text


def test_requests_of_no_use_are_refused_without_an_error_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with console(bus_of("b"), monkeypatch) as address:
        assert send(address, b"GET http://[ HTTP/1.0\r\n\r\n") == b"HTTP/1.0 404 Not Found"
        assert send(address, b"POST / HTTP/1.0\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n") == b""
        for path in ("/handler", "/handler?name=x", "/live?path=/handler&name=x", "/live?path=/try"):
            assert ask(address, "GET", path, **BEARER)[0] == 404, path
        live = ("/live", "/live?path=/handler&name=risk", "/tail-records?topic=b.orders")
        for path in ("/", "/handler?name=risk", *live, "/status", "/history?span=x", "/try"):
            assert ask(address, "HEAD", path, **BEARER) == (200, ""), path
        for choice in ("", "!!!", "e30", "eyJxIjogInJpc2sifQ==", "W10=", "bnVsbA==", "\xff"):
            form = f"action=drop&confirmed=yes&choice={choice}".encode()
            assert 'role="alert"' in ask(address, "POST", "/dead-letters", form, **BEARER)[1]
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


def test_a_backend_of_another_process_or_one_that_is_gone_is_a_message(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    for url, message in (
        ("memory://", "live in another process"),
        (f"redis://127.0.0.1:{free_port}", str(free_port)),
    ):
        with console(bus_of("b"), monkeypatch, url) as address:
            for path in ("/dead-letters", "/tail-records?topic=b.orders"):
                code, text = ask(address, "GET", path, **BEARER)
                assert code == 200
                assert message in text


def test_a_huge_dead_letter_is_shown_in_part(
    monkeypatch: pytest.MonkeyPatch, redis_server: Any, name: str
) -> None:
    [one] = dead_letters(name, 1, ["KeyError"])
    value = b'{"id":"' + "é\u202e".encode() * 1_000_000 + b'"}'
    publish(redis_server.url, [Record(one.topic, value, b"k" * 100_000, "o0", one.headers)])
    with console(bus_of(name), monkeypatch, redis_server.url) as address:
        code, text = ask(address, "GET", f"/dead-letters?one={Choice('risk', 'KeyError')}", **BEARER)
    assert code == 200
    assert f"… ({len(value):,} bytes in all)" in text
    assert "… (100,000 bytes in all)" in text
    assert len(text) < 400_000


def test_more_causes_than_a_page_can_show_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    causes = [Cause("risk", f"Error{number}", count=1) for number in range(1000)]
    bus = bus_of("b")
    bus.configure(config.load(environ={}))
    pages = DeadLetterPages(bus, SimpleNamespace(call=lambda *_: (causes, {})))  # type: ignore[arg-type]
    template, values = pages.page(None)
    text = render(template, bus="b", path="/dead-letters", title="Dead letters", **values)
    assert "1,000 dead letters" in text
    assert "800 smaller causes" in text
    assert text.count("<tr>") == 201


def test_ids_that_are_not_utf_8_can_be_chosen() -> None:
    choice = Choice("risk", "KeyError", "o\udcff")
    assert Choice.parse(str(choice)) == choice
    assert str(choice).isascii()


def test_an_action_that_ends_early_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise UnavailableError("the broker is gone")

    bus = bus_of("b")
    bus.configure(config.load(environ={}))
    pages = DeadLetterPages(bus, SimpleNamespace(call=fail))  # type: ignore[arg-type]
    form = {"action": "replay", "choice": str(Choice("risk", "KeyError")), "confirmed": "yes"}
    with pytest.raises(UnavailableError):
        pages.act(form, "Ada at 127.0.0.1")
    assert "Ada at 127.0.0.1: the replay of dead letters of risk with KeyError has ended early" in caplog.text


def test_live_tails_are_limited_and_closed_ones_make_room(redis_server: Any, name: str) -> None:
    bus, topic = bus_of(name), f"{name}.orders"
    bus.configure(config.load(environ={"EVENTML_BACKEND": redis_server.url}))
    publish(redis_server.url, [Record(topic, b"{}")])
    broker = Broker(bus)
    with broker.running():
        for _ in range(3):
            tails = [broker.tail(topic, "", ()) for _ in range(11)]
            with ThreadPoolExecutor(11) as threads:
                first = [*threads.map(next, tails, timeout=60)]
            assert sum(b"too many live tails" in one for one in first) == 1
            for tail in tails:
                tail.close()


class Color(enum.Enum):
    RED = "red"


class Odd(msgspec.Struct):
    number: Literal[1, 2]
    digit: Literal["1", "2"]
    note: str | None
    count: int | None
    color: Color


def test_texts_numbers_and_choices_of_a_form_keep_their_types() -> None:
    form = Form(SimpleNamespace(event_type=Odd, name="odd"))  # type: ignore[arg-type]
    texts = {"number": "1", "digit": "1", "note": "12345", "count": "7", "color": "red"}
    event = json.loads(form.event({f"field.{name}": text for name, text in texts.items()}))
    assert event == {"number": 1, "digit": "1", "note": "12345", "count": 7, "color": "red"}
    empty = json.loads(
        form.event({f"field.{name}": text for name, text in texts.items()} | {"field.note": "null"})
    )
    assert empty["note"] is None


def collected(path: Path, *, start: int = 0, shift: float = 0.0) -> History:
    history = History(HistoryFile(path, "b"))
    for number in range(start, start + 100, 2):
        now = status(number, restarts=int(number > start + 50))
        history.add(Snapshot(number + shift, now), 1e9 + number + shift)
    return history


def test_two_consoles_on_one_history_file_are_one_history(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    threads = [threading.Thread(target=collected, args=(path,), kwargs={"shift": s}) for s in (0.0, 0.7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    history = History(HistoryFile(path, "b"))
    points = history.points("1h", 1e9 + 100)
    assert len(points) == 4, "one every 20 seconds"
    assert [mark.text for mark in history.marks("24h", 1e9 + 100)] == ["worker-1 restarted"]


def test_rows_of_another_version_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    kept = collected(path).points("1h", 1e9 + 100)
    rows = [
        ("1h", "no json"),
        ("1h", '{"at": 1000000050.0, "values": {"h": [1.0]}}'),
        ("1h", '{"time": 1}'),
        ("mark", "null"),
        ("7d", "{}"),
    ]
    with sqlite3.connect(path) as database:
        for kind, value in rows:
            database.execute("INSERT INTO history VALUES ('b', ?, 1000000010.0, ?)", (kind, value))
    database.close()
    assert History(HistoryFile(path, "b")).points("1h", 1e9 + 100) == kept


def test_a_history_file_that_is_locked_for_a_while_is_used_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.sqlite"
    file = HistoryFile(path, "b")
    file.write([("1h", 1.0, b"1")], 1.0)
    with ExitStack() as stack:
        stack.callback((database := sqlite3.connect(path)).close)
        database.execute("BEGIN EXCLUSIVE")
        file.write([("1h", 2.0, b"2")], 2.0)
        file.write([("1h", 3.0, b"3")], 3.0)
    file.write([("1h", 4.0, b"4")], 4.0)
    assert [value for _, value in file.read()] == ["1", "4"]
    assert caplog.text.count("console.history") == 1
