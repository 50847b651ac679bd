"""Connections of strangers: requests sent ahead, answers not read, endless headers, ambiguous requests."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from tests.web.server import read_rest, request
from tests.web.test_server import BODY, post

if TYPE_CHECKING:
    from tests.web.conftest import Serve
    from tests.web.server import Server

MIB = 1_048_576
GET = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
POST = request("/predict/double", BODY)
HEAD = b"POST /predict/double HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"


def numbered(n: int) -> bytes:
    return request("/predict/double", json.dumps({"name": str(n), "number": n}).encode())


def test_requests_sent_ahead_are_answered_in_their_order(server: Server) -> None:
    with server.connect() as client:
        client.sendall(b"".join(map(numbered, range(12))))
        received = b""
        while received.count(b'"input"') < 12:
            received += client.recv(65_536)
    assert re.findall(rb'"input":"(\d+)"', received) == [b"%d" % n for n in range(12)]


@pytest.mark.parametrize("sent", [GET, POST], ids=["GET", "POST"])
def test_requests_sent_ahead_are_bounded(server: Server, sent: bytes) -> None:
    """More than 16 are not stored: the first ones are answered, and the connection is closed."""
    post(server)
    before = server.peak_memory
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(4)]
        for client in clients:
            with suppress(ConnectionError):
                client.sendall(sent * (4 * MIB // len(sent)))
        assert post(server).status_code == 200
        for client in clients:
            assert 0 < read_rest(client).count(b"HTTP/1.1 200 ") <= 17
    assert server.peak_memory - before < 64 * MIB


def test_answers_that_nobody_reads_free_their_places(serve: Serve) -> None:
    limits = {"MAX_REQUESTS": "1", "SEND_TIMEOUT": "0.5", "MAX_BODY": "20000000"}
    server = serve(env={f"EVENTML_WEB_{name}": value for name, value in limits.items()})
    long = request("/predict/double", b'{"name":"%b","number":3}' % (b"n" * 8_000_000))
    with server.connect() as client:
        client.sendall(long + POST)  # the second takes the only place until the answer to the first is read
        server.process.until(lambda: post(server).status_code == 503)
        server.process.until(lambda: post(server).status_code == 200)
        assert len(read_rest(client)) < 20_000_000  # of an answer that holds the name three times


def test_a_client_that_reads_slowly_gets_its_whole_answer(impatient_server: Server) -> None:
    body = b'{"name":"%b","number":3}' % (b"n" * 8_000_000)
    with impatient_server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.sendall(request("/predict/double", body, extra="connection: close\r\n"))
        received = bytearray()
        for _ in range(15):  # for longer than `send_timeout`
            time.sleep(0.1)
            received += client.recv(65_536, socket.MSG_WAITALL)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        while part := client.recv(MIB):
            received += part
    head, _, answer = received.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(answer) in head


HUGE = b"x" * 70_000


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"a: b\r\n" * 99, b"200"),
        (b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"a: b\r\n" * 100, b"431"),
        (b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\na: " + HUGE[:60_000] + b"\r\n", b"200"),
        (b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\na: " + HUGE + b"\r\n", b"431"),
        (b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n" + HUGE + b": a\r\n", b"431"),
        (b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n" + (b"a: " + b"b" * 1000 + b"\r\n") * 70, b"431"),
        (b"GET /livez?" + HUGE + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n", b"431"),
    ],
    ids=["100", "101", "value", "long value", "long name", "long together", "long path"],
)
@pytest.mark.parametrize("parts", [1, 7])
def test_headers_are_limited(server: Server, head: bytes, status: bytes, parts: int) -> None:
    size = len(head) // parts + 1
    with server.connect() as client:
        with suppress(ConnectionError):
            for start in range(0, len(head), size):
                client.sendall(head[start : start + size])
                time.sleep(0.002)  # so that they arrive apart
            client.sendall(b"\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    "start",
    [
        b"GET /livez HTTP/1.1\r\nhost: ",
        b"GET /livez?",
        b"",
        HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\ntrailer: ",
        HEAD + b"transfer-encoding: chunked\r\n\r\n1;extension=",
    ],
    ids=["header", "path", "method", "trailer", "extension"],
)
def test_headers_without_end_are_not_stored(server: Server, start: bytes) -> None:
    post(server)
    before = server.peak_memory
    with server.connect() as client, pytest.raises(ConnectionError):  # noqa: PT012 - whichever part
        client.sendall(start)
        for _ in range(32):
            client.sendall(b"x" * MIB)
    assert server.peak_memory - before < 16 * MIB
    assert post(server).status_code == 200


def test_a_client_that_sends_a_little_again_and_again_is_disconnected(impatient_server: Server) -> None:
    with impatient_server.connect() as client, pytest.raises(ConnectionError):  # noqa: PT012 - whichever part
        client.sendall(b"POST /predict/double HTTP/1.1\r\nhost: ")
        for _ in range(600):
            time.sleep(0.05)
            client.sendall(b"x")


CHUNKED = b"transfer-encoding: chunked\r\n"
AMBIGUOUS = {
    "length and chunks": b"content-length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "chunks and length": CHUNKED + b"content-length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"content-length: 0\r\ncontent-length: 40\r\n\r\n",
    "the same length twice": b"content-length: 0\r\ncontent-length: 0\r\n\r\n",
    "list of lengths": b"content-length: 0, 0\r\n\r\n",
    "signed length": b"content-length: +0\r\n\r\n",
    "negative length": b"content-length: -1\r\n\r\n",
    "hexadecimal length": b"content-length: 0x0\r\n\r\n",
    "length too large": b"content-length: 99999999999999999999999\r\n\r\n",
    "unknown encoding": b"transfer-encoding: xchunked\r\n\r\n",
    "chunked is not last": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "space before the colon": b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "hexadecimal prefix of a chunk": CHUNKED + b"\r\n0x0\r\n\r\n",
    "signed chunk": CHUNKED + b"\r\n+0\r\n\r\n",
    "negative chunk": CHUNKED + b"\r\n-1\r\n\r\n",
    "no number of a chunk": CHUNKED + b"\r\nG\r\n\r\n",
    "chunk too large": CHUNKED + b"\r\n" + b"f" * 17 + b"\r\n\r\n",
    "chunk without its end": CHUNKED + b"\r\n1\r\nabc\r\n0\r\n\r\n",
    "bare LF after a chunk size": CHUNKED + b"\r\n0\n\n",
    "folded header": b"x: a\r\n content-length: 4\r\n\r\n",
    "folded encoding": b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare LF": b"x: a\ncontent-length: 0\n\n",
    "bare CR": b"x: a\rcontent-length: 4\r\n\r\n",
    "NUL": b"x: \0\r\ncontent-length: 0\r\n\r\n",
    "no colon": b"x\r\ncontent-length: 0\r\n\r\n",
    "upgrade with a body": b"connection: upgrade\r\nupgrade: x\r\ncontent-length: 4\r\n\r\n",
}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("rest", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_ambiguous_requests_are_answered_400_and_hide_no_other(
    server: Server, rest: bytes, apart: bool
) -> None:
    """A proxy in front may find another end of such a request, and so another next one (smuggling)."""
    with server.connect() as client:
        client.sendall(HEAD + rest + (b"" if apart else GET))
        with suppress(ConnectionError):
            time.sleep(0.01 if apart else 0)
            client.sendall(GET)
        received = read_rest(client)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert post(server).status_code == 200


def test_the_requests_before_one_that_is_not_http_are_answered(server: Server) -> None:
    with server.connect() as client:
        client.sendall(numbered(1) + numbered(2) + b"\0\r\n\r\n")
        received = read_rest(client)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200"]
    assert re.findall(rb'"input":"(\d+)"', received) == [b"1", b"2"]


def test_trailers_are_not_headers(server: Server) -> None:
    head = b"POST /predict/double HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n" + CHUNKED
    with server.connect() as client:
        client.sendall(
            head + b"\r\n%x\r\n%b\r\n0\r\ncontent-type: application/json\r\n\r\n" % (len(BODY), BODY)
        )
        assert read_rest(client).startswith(b"HTTP/1.1 415 ")
