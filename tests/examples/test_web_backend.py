"""The Flask app as its one command starts it: over HTTP, and in a real browser."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventml.errors import UnavailableError
from eventml.models import Artefact, load
from examples.rides.app import duration, tip
from examples.rides.events import RideStarted
from examples.rides.train import model_version
from examples.web_backend import demo
from examples.web_backend.app import create_app
from examples.web_backend.board import Board
from examples.web_backend.demo import Connection, listen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient

ROOT = Path(__file__).parents[2]
RIDE = {"pickup_location_id": 42, "dropoff_location_id": 17, "trip_distance": 2.5, "passenger_count": 2}
PATIENCE = 20  # seconds


@contextmanager
def served(environment: dict[str, str], *options: str, port: int = 0) -> Iterator[str]:
    """The app's address, while its command runs."""
    command = [sys.executable, "-m", "examples.web_backend.demo", "--port", str(port), *options]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - ours
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("open "):
                break
        else:
            pytest.fail("".join(said))
        try:
            yield line.split()[1]
        finally:
            process.terminate()
            process.stderr.read()
            assert process.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def address(rides_models: Path) -> Iterator[str]:
    with served({**os.environ, "RIDES_MODELS": str(rides_models)}) as url:
        yield url


def post(url: str, body: bytes) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/rides", data=body, headers=headers)  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - ours
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def answered(url: str, ride_id: str) -> dict[str, Any]:
    """What `/events` says of a ride once all is known of it."""
    with urllib.request.urlopen(f"{url}/events", timeout=PATIENCE) as stream:  # noqa: S310 - ours
        for line in stream:
            if line.startswith(b"data: "):
                ride: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                if ride["ride_id"] == ride_id and {"minutes", "amount"} <= ride.keys():
                    return ride
    pytest.fail("the stream ended")


def test_page_is_told_just_what_the_models_say(address: str, rides_models: Path) -> None:
    status, said = post(address, json.dumps(RIDE).encode())
    assert status == 202
    answer = answered(address, said["ride_id"])
    ride = msgspec.convert(answer, RideStarted)
    models = {
        name: load(
            Artefact(rides_models / f"{name}.skops", version=model_version(rides_models, name)), name=name
        ).object
        for name in ("duration", "tip")
    }
    assert answer["minutes"] == duration([ride], models["duration"])[0].minutes
    assert answer["amount"] == tip([ride], models["tip"])[0].amount
    assert {name: answer[name] for name in RIDE} == RIDE


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, b"truncated"),
        (b"[]", 400, b"object"),
        (json.dumps({**RIDE, "trip_distance": 0}).encode(), 400, b"$.trip_distance"),
        (json.dumps({**RIDE, "pickup_location_id": "x"}).encode(), 400, b"$.pickup_location_id"),
        (json.dumps({**RIDE, "ride_id": "mine"}).encode(), 400, b"ride_id"),
        (b" " * 10_001, 413, b""),
    ],
)
def test_what_is_no_ride_is_refused_with_the_reason(
    address: str, body: bytes, status: int, words: bytes
) -> None:
    refused, reason = post(address, body)
    assert refused == status
    assert words in reason


def test_ride_that_the_broker_does_not_take_is_an_apology_without_details() -> None:
    class Lost:
        def publish(self, *_: Any, **__: Any) -> None:
            raise UnavailableError("redis://secret@host does not answer")

    client = create_app(Lost(), Board()).test_client()  # type: ignore[arg-type]  # it publishes, and that is all
    answer = client.post("/rides", json=RIDE)
    assert answer.status_code == 503
    assert "secret" not in answer.text
    assert "again" in answer.text


class Taking:
    """A producer that only counts."""

    def __init__(self) -> None:
        self.rides = 0

    def publish(self, *_: Any, **__: Any) -> None:
        self.rides += 1


@pytest.fixture(scope="module")
def taking() -> tuple[Taking, FlaskClient]:
    """A producer, and a client of the app that has it."""
    producer = Taking()
    return producer, create_app(producer, Board()).test_client()  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Content-Type": "application/json; charset=utf-8", "Sec-Fetch-Site": "same-origin"}, 202),
        ({"Origin": "http://localhost"}, 202),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy"}, 202),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "text/plain; application/json"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_ride_that_another_site_makes_the_browser_send_is_refused(
    taking: tuple[Taking, FlaskClient], headers: dict[str, str], status: int
) -> None:
    producer, client = taking
    before = producer.rides
    headers = {"Content-Type": "application/json", **headers}
    assert client.post("/rides", data=json.dumps(RIDE), headers=headers).status_code == status
    assert producer.rides - before == (status == 202)


def test_another_site_may_link_to_the_page_and_no_more(taking: tuple[Taking, FlaskClient]) -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    for path, status in (("/", 200), ("/events", 403), ("/suggestion", 403)):
        with taking[1].get(path, headers=elsewhere) as answer:
            assert answer.status_code == status


def test_streams_are_bounded_and_those_that_end_make_room() -> None:
    client = create_app(Taking(), Board(), streams=2).test_client()  # type: ignore[arg-type]  # as above
    first, second = client.get("/events"), client.get("/events")
    with closing(second):
        assert [next(iter(stream.response)) for stream in (first, second)] == [b"retry: 1000\n\n"] * 2
        refused = client.get("/events")
        assert refused.data == b"retry: 10000\n\n", "it ends at once, and the page comes again"
        client.head("/events")
        first.close()
        with closing(client.get("/events")) as later:
            assert next(iter(later.response)) == b"retry: 1000\n\n"
            assert client.get("/events").data == b"retry: 10000\n\n"


def test_client_that_reads_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "timeout", 0.3)
    board, large = Board(), {"ride_id": "a", "note": "x" * 1_000_000}
    running = listen(create_app(Taking(), board, streams=1), 0)  # type: ignore[arg-type]  # as above
    with ExitStack() as stack:
        stack.callback(running.server_close)
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(running.shutdown)
        deaf = stack.enter_context(socket.create_connection(("127.0.0.1", running.server_port)))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deaf.recv(1)
        deadline = time.monotonic() + PATIENCE
        while free_stream(running.server_port) is False:
            board.note(large)
            assert time.monotonic() < deadline


def free_stream(port: int) -> bool:
    """Whether the server has room for another stream of events."""
    url = f"http://127.0.0.1:{port}/events"
    with urllib.request.urlopen(url, timeout=PATIENCE) as stream:
        return bool(stream.readline() == b"retry: 1000\n")


def test_only_this_machine_is_served_under_its_own_name(address: str) -> None:
    port = int(address.rpartition(":")[2])
    assert address == f"http://127.0.0.1:{port}"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port)).close()  # this machine too, by another address
    with pytest.raises(SystemExit):
        demo.main(["--host", "0.0.0.0"])  # noqa: S104 - it is refused
    named = urllib.request.Request(address, headers={"Host": f"evil.example:{port}"})  # noqa: S310 - ours
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        urllib.request.urlopen(named, timeout=PATIENCE)  # noqa: S310 - ours
    refused.value.close()


def wait_for(browser: Any, what: str) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait  # noqa: PLC0415 - with the browser

    return WebDriverWait(browser, PATIENCE).until(lambda page: page.execute_script(f"return {what}"))


ROW = "document.querySelector('#rides tr[id^=ride]')"


def test_ride_started_on_the_page_shows_its_predictions(browser: Any, address: str) -> None:
    browser.get(address)
    wait_for(browser, "state.className === 'live'")
    browser.execute_script("form.elements.trip_distance.value = '7.25'; byId('start').click()")
    wait_for(
        browser, f"{ROW}?.cells[2].textContent === '7.3' && {ROW}.querySelectorAll('.predicted').length === 2"
    )
    cells = browser.execute_script(f"return [...{ROW}.cells].map((cell) => cell.textContent)")
    ride = answered(address, cells[0])
    assert cells[1:] == ["42 → 17", "7.3", f"{ride['minutes']:.1f}", f"${ride['amount']:.2f}"]
    assert browser.get_log("browser") == []


def test_page_shows_what_others_started(browser: Any, address: str) -> None:
    _, said = post(address, json.dumps(RIDE).encode())
    browser.get(address)
    wait_for(browser, f"document.querySelectorAll('#ride-{said['ride_id']} .predicted').length === 2")
    _, later = post(address, json.dumps(RIDE).encode())
    wait_for(browser, f"document.querySelectorAll('#ride-{later['ride_id']} .predicted').length === 2")
    assert browser.execute_script(f"return {ROW}.id") == f"ride-{later['ride_id']}"


def test_any_ride_fills_the_form_and_starts_it(browser: Any, address: str) -> None:
    browser.get(address)
    wait_for(browser, "state.className === 'live'")
    before = set(browser.execute_script("return [...list.rows].map((row) => row.id)"))
    browser.execute_script("byId('random').click()")
    wait_for(browser, f"!{json.dumps(sorted(before))}.includes({ROW}?.id ?? 'none')")
    miles = browser.execute_script("return form.elements.trip_distance.valueAsNumber")
    wait_for(browser, f"{ROW}.cells[2].textContent === ({miles}).toFixed(1)")


def test_refused_ride_is_explained_on_the_page(browser: Any, address: str) -> None:
    browser.get(address)
    browser.execute_script("form.elements.trip_distance.value = '400'; byId('start').click()")
    wait_for(browser, "byId('error').textContent.includes('trip_distance')")


def test_page_says_that_the_server_is_gone_and_comes_back_with_it(
    browser: Any, with_models: dict[str, str]
) -> None:
    with served(with_models) as url:
        browser.get(url)
        wait_for(browser, "state.className === 'live'")
    wait_for(browser, "state.className === 'lost'")
    with served(with_models, port=int(url.rpartition(":")[2])):
        wait_for(browser, "state.className === 'live'")
        browser.execute_script("byId('start').click()")
        wait_for(browser, f"{ROW}?.querySelectorAll('.predicted').length === 2")
