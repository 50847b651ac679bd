"""`eventml serve` over real sockets: slow, idle and vanishing clients, overload, stops and crashes."""

from __future__ import annotations

import re
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.deploy.service import alive
from tests.web.conftest import TOKEN
from tests.web.server import read_answer, request
from tests.web.test_predict import event

if TYPE_CHECKING:
    from tests.web.conftest import Serve
    from tests.web.server import Server

BODY = b'{"name":"n","number":3}'


def post(server: Server, **fields: object) -> httpx.Response:
    with server.client() as client:
        return client.post("/predict/double", json=event(**fields))  # type: ignore[arg-type]


def test_a_server_answers_and_stops(serve: Serve) -> None:
    server = serve()
    assert post(server).json()["prediction"] == {"name": "n", "twice": 6.0}
    assert server.process.stop() == 0


def test_concurrent_clients_get_their_own_answers(server: Server) -> None:
    def post_many(client_number: int) -> bool:
        with server.client() as client:
            for n in range(30):
                name, number = f"{client_number}-{n}", 1000 * client_number + n
                answer = client.post("/predict/double", json=event(name, number)).json()
                assert (answer["input"], answer["prediction"]["twice"]) == (name, 2 * number)
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(post_many, range(16)))


def test_requests_in_flight_are_finished_before_the_server_exits(serve: Serve) -> None:
    server = serve()
    post(server)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(post, server, number=5.0, do="sleep")
        server.process.until(lambda: _in_flight(server) == 1)
        begun = time.monotonic()
        server.process.send(signal.SIGTERM)
        assert slow.result().status_code == 200
        assert server.process.wait() == 0
    assert time.monotonic() - begun < 20
    assert re.search(r" 1 requests in flight.*second signal", server.text)


def _in_flight(server: Server) -> int:
    """Number of events of `double` in flight."""
    with server.client() as client:
        text = client.get("/metrics").text
    found = re.findall(r'^eventml_events_in_flight{handler="double".*} (\S+)$', text, re.MULTILINE)
    return int(sum(map(float, found)))


def test_requests_that_take_longer_than_drain_are_answered_503(serve: Serve) -> None:
    server = serve(env={"EVENTML_DRAIN": "0.3"})
    post(server)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(post, server, number=20.0, do="sleep")
        server.process.until(lambda: _in_flight(server) == 1)
        assert server.process.stop() == 1
        assert slow.result().status_code == 503
    assert "Traceback" not in server.text


def test_a_second_signal_abandons_requests_in_flight(serve: Serve) -> None:
    server = serve()
    post(server)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(post, server, number=20.0, do="sleep")
        server.process.until(lambda: _in_flight(server) == 1)
        server.process.send(signal.SIGTERM)
        server.process.until_logged(" 1 requests in flight.*second signal")
        assert server.process.stop() == 1
        with pytest.raises(httpx.HTTPError):
            slow.result().raise_for_status()


def test_a_connection_without_whole_headers_is_closed(impatient_server: Server) -> None:
    server = impatient_server
    with server.connect() as slow, server.connect() as silent:
        slow.sendall(b"POST /predict/double HTTP/1.1\r\nhost: 127.0.0.1\r\n")
        assert post(server).status_code == 200
        assert read_answer(slow) == read_answer(silent) == b""


def test_a_body_that_arrives_too_slowly_is_answered_408(impatient_server: Server) -> None:
    with impatient_server.connect() as slow:
        slow.sendall(request("/predict/double", BODY[:5], length=len(BODY)))
        assert post(impatient_server).status_code == 200
        assert read_answer(slow).startswith(b"HTTP/1.1 408 ")


def test_a_body_too_large_is_answered_before_it_has_arrived(impatient_server: Server) -> None:
    with impatient_server.connect() as client:
        client.sendall(request("/predict/double", b" " * 500, length=10**12))
        assert client.recv(65_536).startswith(b"HTTP/1.1 413 ")
        assert post(impatient_server).status_code == 200
        try:
            while True:  # a client that sends on all the same is disconnected
                client.sendall(b" " * 65_536)
        except OSError:
            pass


def test_a_client_that_does_not_read_its_answer_is_disconnected(impatient_server: Server) -> None:
    server = impatient_server
    name, completed, before = "n" * 8_000_000, _completed(server), _sockets(server)
    with server.connect() as client:
        client.sendall(request("/predict/double", b'{"name":"%b","number":3}' % name.encode()))
        server.process.until(lambda: _completed(server) == completed + 1)
        since = _sockets(server) - before  # those of earlier tests may be closed at any time
        assert post(server).status_code == 200
        server.process.until(lambda: not since & _sockets(server))
        try:
            rest = read_answer(client)
        except ConnectionResetError:
            rest = b""
        assert len(rest) < 2 * len(name)  # of an answer that holds the name three times


def _sockets(server: Server) -> set[str]:
    """Names of the sockets that the process of the server has open."""
    found = set()
    for file in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(OSError):
            found.add(file.readlink().name)
    return {name for name in found if name.startswith("socket:")}


def test_a_client_that_disconnects_leaves_others_alone(serve: Serve) -> None:
    server = serve()
    for part in (request("/predict/double", BODY), request("/predict/double", BODY[:5], length=len(BODY))):
        with server.connect() as leaving:
            leaving.sendall(part)
    assert post(server).status_code == 200
    assert server.process.stop() == 0
    assert "Traceback" not in server.text


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\0" * 1000]
)
def test_bytes_that_are_not_http_are_answered_400(server: Server, junk: bytes) -> None:
    with server.connect() as client:
        client.sendall(junk)
        assert read_answer(client).startswith(b"HTTP/1.1 400 ")
    assert post(server).status_code == 200


def test_a_thousand_idle_connections(serve: Serve) -> None:
    """Others are answered meanwhile, and the idle ones are closed after a time."""
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, 1_200), hard))
    except ValueError:
        pytest.skip(f"it opens 1,200 files, and {hard} are allowed")
    server = serve(env={"EVENTML_WEB_RECEIVE_TIMEOUT": "3"})
    post(server)
    before = server.peak_memory
    idle = [server.connect() for _ in range(1_000)]
    try:
        with server.client() as client:
            for n in range(50):
                assert client.post("/predict/double", json=event(str(n), n)).json()["input"] == str(n)
        assert server.peak_memory - before < 32 * 1_048_576
        assert all(read_answer(one) == b"" for one in idle)
    finally:
        for one in idle:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    assert post(server).status_code == 200


def test_requests_beyond_the_limit_are_answered_503_until_others_finish(serve: Serve) -> None:
    server = serve(env={"EVENTML_WEB_MAX_REQUESTS": "4"})
    post(server)
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: post(server, number=0.3, do="sleep"), range(24)))
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
    assert post(server).status_code == 200


def test_listening_on_other_addresses_needs_a_token(serve: Serve) -> None:
    refused = serve("--host", "0.0.0.0")  # noqa: S104 - it is refused
    assert refused.process.wait() == 1
    assert "EVENTML_TOKEN" in refused.text
    guarded = serve("--host", "0.0.0.0", env={"EVENTML_TOKEN": TOKEN})  # noqa: S104 - with a token, for a moment
    with guarded.client() as client:
        assert client.post("/predict/double", json=event()).status_code == 401
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/predict/double", json=event(), headers=headers).status_code == 200
    assert TOKEN not in guarded.text


def test_a_port_that_is_in_use(serve: Serve, server: Server) -> None:
    second = serve("--port", str(server.port))
    assert second.process.wait() == 1
    assert f"127.0.0.1:{server.port}" in second.text


def test_an_unknown_predictor_is_refused_before_the_server_listens(serve: Serve) -> None:
    server = serve("--only", "look")
    assert server.process.wait() == 2
    assert "no predictor is named 'look'; there are: double, double_one, root" in server.text


def test_the_next_worker_takes_over_the_connections_of_a_crashed_one(serve: Serve) -> None:
    server = serve("--workers", "2", "--operations", "0")
    server.process.until_ready()
    with pytest.raises(httpx.HTTPError):
        post(server, do="die")
    # A connection in the queue of the crashed worker's socket waits for the next worker.
    assert [post(server).status_code for _ in range(20)] == [200] * 20
    server.process.until_logged(r"ended: exit status 66")
    assert server.process.stop() == 0


def test_a_rolling_restart_loses_no_request_and_metrics_count_all_workers(serve: Serve) -> None:
    server = serve("--workers", "2", "--operations", "0", env={"http_proxy": "http://127.0.0.1:1"})
    server.process.until_ready()
    before = set(server.process.workers)

    def post_until_replaced() -> int:
        answered = 0
        while "all workers have been replaced" not in server.text:
            assert post(server).status_code == 200
            answered += 1
        return answered

    with ThreadPoolExecutor(4) as pool:
        counts = [pool.submit(post_until_replaced) for _ in range(4)]
        server.process.send(signal.SIGHUP)
        answered = sum(count.result() for count in counts)
    assert before.isdisjoint(server.process.workers)
    server.process.until(lambda: _completed(server) == answered)
    workers = server.process.workers
    assert server.process.stop() == 0
    assert not any(map(alive, workers))


def _completed(server: Server) -> int:
    with server.client() as client:
        text = client.get("/metrics").text
    wanted = 'eventml_events_completed_total{group="double",handler="double"}'
    return int(next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted)), 0))


def test_pages_over_http(server: Server) -> None:
    with server.client() as client:
        assert client.get("/docs").status_code == 200
        assert client.get("/openapi.json").json()["openapi"] == "3.1.0"
        assert client.get("/livez").text == client.get("/readyz").text == "ok\n"
