"""`eventml serve` over real sockets: slow, idle, greedy and vanishing clients, stops and deaths."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.deploy.service import alive
from tests.web.conftest import TOKEN
from tests.web.server import read_answer, request
from tests.web.test_predicting import event

if TYPE_CHECKING:
    from tests.web.conftest import Serve
    from tests.web.server import Server

BODY = b'{"name":"n","number":3}'


def ask(server: Server, **said: object) -> httpx.Response:
    with server.client() as client:
        return client.post("/predict/double", json=event(**said))  # type: ignore[arg-type]


def test_it_answers_and_stops_in_order(serve: Serve) -> None:
    server = serve()
    assert ask(server).json()["prediction"] == {"name": "n", "twice": 6.0}
    assert server.process.stop() == 0


def test_concurrent_callers_over_real_connections(serve: Serve) -> None:
    server = serve()

    def many(caller: int) -> bool:
        with server.client() as client:
            for n in range(30):
                said = client.post("/predict/double", json=event(f"{caller}-{n}", 1000 * caller + n)).json()
                assert (said["input"], said["prediction"]["twice"]) == (
                    f"{caller}-{n}",
                    2 * (1000 * caller + n),
                )
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(many, range(16)))


def test_open_requests_are_finished_before_it_ends(serve: Serve) -> None:
    server = serve()
    ask(server)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(ask, server, number=1.5, do="sleep")
        server.process.until(lambda: _in_hand(server) == 1)
        begun = time.monotonic()
        server.process.send(signal.SIGTERM)
        assert slow.result().status_code == 200
        assert server.process.wait() == 0
    assert time.monotonic() - begun < 20
    assert "stopping: 1 requests in flight" in server.text


def _in_hand(server: Server) -> int:
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return int(
        sum(float(line.split()[-1]) for line in lines if line.startswith('eventml_in_hand{handler="double"'))
    )


def test_requests_that_outlast_the_drain_are_cut_off(serve: Serve) -> None:
    server = serve(env={"EVENTML_DRAIN": "0.3"})
    ask(server)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(ask, server, number=20.0, do="sleep")
        server.process.until(lambda: _in_hand(server) == 1)
        assert server.process.stop() == 1
        with pytest.raises(httpx.HTTPError):
            slow.result().raise_for_status()


def test_a_second_signal_gives_up(serve: Serve) -> None:
    server = serve()
    ask(server)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(ask, server, number=20.0, do="sleep")
        server.process.until(lambda: _in_hand(server) == 1)
        server.process.send(signal.SIGTERM)
        server.process.until_logged("stopping: 1 requests in flight")
        assert server.process.stop() == 1
        with pytest.raises(httpx.HTTPError):
            slow.result().raise_for_status()


def test_a_client_that_says_its_headers_too_slowly_is_left(serve: Serve) -> None:
    server = serve(env={"EVENTML_WEB_RECEIVE_TIMEOUT": "0.5"})
    with server.connect() as slow, server.connect() as silent:
        slow.sendall(b"POST /predict/double HTTP/1.1\r\nhost: 127.0.0.1\r\n")
        assert ask(server).status_code == 200
        assert read_answer(slow) == read_answer(silent) == b""


def test_a_client_that_sends_its_body_too_slowly_is_told(serve: Serve) -> None:
    server = serve(env={"EVENTML_WEB_RECEIVE_TIMEOUT": "0.5"})
    with server.connect() as slow:
        slow.sendall(request("/predict/double", BODY[:5], length=len(BODY)))
        assert ask(server).status_code == 200
        assert read_answer(slow).startswith(b"HTTP/1.1 408 ")


def test_a_body_too_large_is_told_before_it_has_come(serve: Serve) -> None:
    server = serve(env={"EVENTML_WEB_MAX_BODY": "1000", "EVENTML_WEB_RECEIVE_TIMEOUT": "0.5"})
    with server.connect() as greedy:
        greedy.sendall(request("/predict/double", b" " * 500, length=10**12))
        assert greedy.recv(65_536).startswith(b"HTTP/1.1 413 ")
        assert ask(server).status_code == 200
        try:
            while True:  # it goes on all the same, and is left
                greedy.sendall(b" " * 65_536)
        except OSError:
            pass


def test_a_client_that_does_not_read_its_answer_is_left(serve: Serve) -> None:
    server = serve(
        env={
            "EVENTML_WEB_MAX_BODY": "20000000",
            "EVENTML_WEB_RECEIVE_TIMEOUT": "0.5",
            "EVENTML_WEB_KEEP_ALIVE": "0.5",
        }
    )
    name = "n" * 8_000_000
    with server.connect() as deaf:
        deaf.sendall(request("/predict/double", b'{"name":"%b","number":3}' % name.encode()))
        server.process.until(lambda: _completed(server) == 1)
        assert ask(server).status_code == 200
        time.sleep(3)
        try:
            rest = read_answer(deaf)
        except ConnectionResetError:
            rest = b""
        assert len(rest) < 2 * len(name)  # of an answer that holds it three times
    assert server.process.stop() == 0


def test_a_client_that_vanishes_costs_nobody_else(serve: Serve) -> None:
    server = serve()
    for part in (request("/predict/double", BODY), request("/predict/double", BODY[:5], length=len(BODY))):
        with server.connect() as vanishing:
            vanishing.sendall(part)
    assert ask(server).status_code == 200
    assert server.process.stop() == 0
    assert "Traceback" not in server.text


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\0" * 1000]
)
def test_what_is_no_http(serve: Serve, junk: bytes) -> None:
    server = serve()
    with server.connect() as stranger:
        stranger.sendall(junk)
        assert read_answer(stranger).startswith(b"HTTP/1.1 400 ")
    assert ask(server).status_code == 200


def test_a_thousand_idle_connections(serve: Serve) -> None:
    """The others are answered meanwhile, and the idle ones are left after a time."""
    server = serve(env={"EVENTML_WEB_RECEIVE_TIMEOUT": "5"})
    idle = [server.connect() for _ in range(1_000)]
    try:
        with server.client() as client:
            for n in range(50):
                assert client.post("/predict/double", json=event(str(n), n)).json()["input"] == str(n)
        assert all(read_answer(one) == b"" for one in idle)
    finally:
        for one in idle:
            one.close()
    assert ask(server).status_code == 200


def test_overload_is_told_at_once_and_passes(serve: Serve) -> None:
    server = serve(env={"EVENTML_WEB_MAX_REQUESTS": "4"})
    ask(server)
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: ask(server, number=0.3, do="sleep"), range(24)))
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
    assert ask(server).status_code == 200


def test_listening_elsewhere_wants_a_token(serve: Serve) -> None:
    refused = serve("--host", "0.0.0.0")  # noqa: S104 - it is refused
    assert refused.process.wait() == 1
    assert "EVENTML_TOKEN" in refused.text
    guarded = serve("--host", "0.0.0.0", env={"EVENTML_TOKEN": TOKEN})  # noqa: S104 - with a token, for a moment
    with guarded.client() as client:
        assert client.post("/predict/double", json=event()).status_code == 401
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/predict/double", json=event(), headers=headers).status_code == 200
    assert TOKEN not in guarded.text


def test_a_port_that_somebody_has(serve: Serve) -> None:
    port = serve().port
    second = serve("--port", str(port))
    assert second.process.wait() == 1
    assert f"127.0.0.1:{port}" in second.text


def test_what_cannot_be_served_is_refused_before_it_listens(serve: Serve) -> None:
    server = serve("--only", "look")
    assert server.process.wait() == 1
    assert "no predictor is named 'look'; there are: double, double_one, root" in server.text


def test_a_worker_that_dies_is_replaced_and_its_connections_are_taken_over(serve: Serve) -> None:
    server = serve("--workers", "2", "--operations", "0")
    server.process.until_ready()
    with pytest.raises(httpx.HTTPError):
        ask(server, do="die")
    # A connection that falls to the dead one's socket waits for its successor.
    assert [ask(server).status_code for _ in range(20)] == [200] * 20
    server.process.until_logged(r"ended: exit status 66")
    assert server.process.stop() == 0


def test_workers_are_replaced_without_a_request_lost_and_count_together(serve: Serve) -> None:
    server = serve("--workers", "2", "--operations", "0")
    server.process.until_ready()
    before = set(server.process.workers)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, server, name=str(n)) for n in range(20)]
        server.process.send(signal.SIGHUP)
        while "all workers have been replaced" not in server.text:
            asked.append(pool.submit(ask, server, name=str(len(asked))))
            time.sleep(0.02)
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert before.isdisjoint(server.process.workers)
    server.process.until(lambda: _completed(server) == len(asked))
    workers = server.process.workers
    assert server.process.stop() == 0
    assert not any(map(alive, workers))


def _completed(server: Server) -> int:
    with server.client() as client:
        text = client.get("/metrics").text
    wanted = 'eventml_events_completed_total{group="double",handler="double"}'
    return int(next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted)), 0))


def test_the_page_and_the_description_over_http(serve: Serve) -> None:
    with serve().client() as client:
        assert client.get("/docs").status_code == 200
        assert client.get("/openapi.json").json()["openapi"] == "3.1.0"
        assert client.get("/livez").text == client.get("/readyz").text == "ok\n"
        assert os.environ.get("EVENTML_TOKEN") is None
