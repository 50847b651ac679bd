"""Outages cost no event, whichever client library reports them; its other errors are the event's fault."""

from __future__ import annotations

import errno
import secrets
import socket
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import anyio
import asyncpg
import botocore.exceptions
import psycopg
import pymongo.errors
import pymysql
import pytest
import sqlalchemy.exc

from eventml.runtime.failures.classification import MAX_RETRY_AFTER, Verdict, classify, retry_after
from tests.failures.clients import CALLS, Service
from tests.failures.scenario import Duration, Ride, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning"
    ),  # clients that failed leave connections to the collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EVENTS, OUTAGE = 10, 39
SHORT_OUTAGE = 3
"""For a client that needs half a second to find that nobody is there."""


class Answers(BaseHTTPRequestHandler):
    """Answers `/<status>` with the status, `/<status>/later` with `Retry-After: 7` and `/soon` with 1 too."""

    def do_GET(self) -> None:
        _, status, *when = self.path.partition("?")[0].rstrip("/").split("/")
        self.send_response(int(status))
        if when and when[0] in {"later", "soon"}:
            self.send_header("Retry-After", "7" if when[0] == "later" else "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        pass


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, closing(socket.socket()) as closed:
        # A port that is bound, but not listened on, refuses connections and is given to nobody else.
        closed.bind(("127.0.0.1", 0))
        yield Service(
            closed.getsockname()[1],
            silent.getsockname()[1],
            f"http://127.0.0.1:{server.server_port}",
            tmp_path_factory.mktemp("clients"),
        )
    server.shutdown()
    server.server_close()


def raised_by(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - of any library
        call()
    return raised.value


OUTAGES = [name for name in CALLS if name.endswith(("_down", "_status", "_locked"))]
TIMEOUTS = [name for name in CALLS if name.endswith("_silent")]
STATUSES = [name for name in CALLS if name.endswith("_status")]


@pytest.mark.anyio
@pytest.mark.parametrize("name", OUTAGES)
async def test_an_outage_costs_no_event(name: str, service: Service) -> None:
    scenario, calls = Scenario(f"memory://{secrets.token_hex(4)}"), count()
    outage = SHORT_OUTAGE if name == "pymongo_down" else OUTAGE

    @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0, backoff=0.001, max_backoff=0.002)
    def duration(ride: Ride) -> Duration:
        if next(calls) < outage:
            CALLS[name](service)
        return Duration(ride.ride_id, ride.miles)

    await scenario.run([Ride(number, 1.0) for number in range(EVENTS)])
    scenario.check(answered=set(range(EVENTS)), dead_letters=set())
    assert next(calls) == outage + EVENTS


@pytest.mark.parametrize("name", TIMEOUTS)
def test_a_timeout_is_no_event_s_fault(name: str, service: Service) -> None:
    assert classify(raised_by(partial(CALLS[name], service))) is Verdict.INFRASTRUCTURE


@pytest.mark.parametrize("name", STATUSES)
@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        *[(status, Verdict.INFRASTRUCTURE) for status in (408, 429, 500, 502, 504, 599)],
        *[(status, Verdict.EVENT) for status in (400, 401, 404, 422, 501, 505)],
    ],
)
def test_statuses_of_a_service(name: str, status: int, verdict: Verdict, service: Service) -> None:
    assert classify(raised_by(partial(CALLS[name], service, status))) is verdict


@pytest.mark.parametrize("name", STATUSES)
def test_retry_after_is_read(name: str, service: Service) -> None:
    assert retry_after(raised_by(partial(CALLS[name], service, "429/later"))) == 7.0


@pytest.mark.anyio
async def test_retry_after_is_waited_for(service: Service) -> None:
    scenario, times = Scenario(f"memory://{secrets.token_hex(4)}"), list[float]()

    @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0, backoff=0.001, max_backoff=0.001)
    def duration(ride: Ride) -> Duration:
        times.append(time.monotonic())
        if len(times) == 1:
            CALLS["httpx_status"](service, "503/soon")
        return Duration(ride.ride_id, ride.miles)

    await scenario.run([Ride(0, 1.0)])
    scenario.check(answered={0}, dead_letters=set())
    assert times[1] - times[0] >= 1.0


class HTTPError(Exception):
    """An exception as clients made from a specification raise it."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.response = SimpleNamespace(status_code=503, headers=headers)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("86400", MAX_RETRY_AFTER),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("soon", 0),
        ("-5", 0),
        ("\u00b2", 0),
        ("9" * 5000, MAX_RETRY_AFTER),
    ],
)
def test_retry_after_in_every_form(text: str, seconds: float) -> None:
    for name in ("Retry-After", "retry-after"):
        assert retry_after(HTTPError({name: text})) == seconds
    assert retry_after(HTTPError({})) == retry_after(KeyError()) == 0


def sqlite_error(script: str) -> Exception:
    with closing(sqlite3.connect(":memory:")) as connection:
        return raised_by(lambda: connection.executescript(script))


@pytest.mark.parametrize(
    "script",
    ["select nothing", "create table t (a unique); insert into t values (1), (1)"],
    ids=["column", "unique"],
)
def test_a_statement_that_sqlite_refuses_is_the_event_s_fault(script: str) -> None:
    error = sqlite_error(script)
    assert classify(error) is Verdict.EVENT
    assert classify(sqlalchemy.exc.OperationalError(script, {}, error)) is Verdict.EVENT


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("AdminShutdown", Verdict.INFRASTRUCTURE),
        ("TooManyConnections", Verdict.INFRASTRUCTURE),
        ("DeadlockDetected", Verdict.INFRASTRUCTURE),
        ("ReadOnlySqlTransaction", Verdict.INFRASTRUCTURE),
        ("LockNotAvailable", Verdict.INFRASTRUCTURE),
        ("UniqueViolation", Verdict.EVENT),
        ("InvalidTextRepresentation", Verdict.EVENT),
        ("UndefinedColumn", Verdict.EVENT),
    ],
)
def test_codes_of_postgresql(name: str, verdict: Verdict) -> None:
    error = getattr(psycopg.errors, name)("refused")
    assert classify(error) is verdict
    assert classify(sqlalchemy.exc.DBAPIError.instance("select", {}, error, Exception)) is verdict


def test_codes_of_postgresql_with_asyncpg() -> None:
    assert classify(asyncpg.TooManyConnectionsError("full")) is Verdict.INFRASTRUCTURE
    assert classify(asyncpg.InterfaceError("connection is closed")) is Verdict.INFRASTRUCTURE
    assert classify(asyncpg.UniqueViolationError("there")) is Verdict.EVENT
    assert classify(asyncpg.DataError("invalid input")) is Verdict.EVENT


@pytest.mark.parametrize(("code", "verdict"), [(1205, Verdict.INFRASTRUCTURE), (1054, Verdict.EVENT)])
def test_codes_of_mysql(code: int, verdict: Verdict) -> None:
    assert classify(pymysql.err.OperationalError(code, "refused")) is verdict


def test_mongodb_on_its_way_to_another_primary() -> None:
    assert classify(pymongo.errors.NotPrimaryError("stepped down")) is Verdict.INFRASTRUCTURE
    labels = {"errorLabels": ["RetryableWriteError"]}
    assert classify(pymongo.errors.OperationFailure("stepped down", 11602, labels)) is Verdict.INFRASTRUCTURE
    assert classify(pymongo.errors.DuplicateKeyError("there", 11000, {})) is Verdict.EVENT


def test_throttling_of_aws_has_status_400() -> None:
    metadata = {"HTTPStatusCode": 400, "HTTPHeaders": {}}
    for code, verdict in (("ThrottlingException", Verdict.INFRASTRUCTURE), ("NoSuchKey", Verdict.EVENT)):
        answer = {"Error": {"Code": code}, "ResponseMetadata": metadata}
        assert classify(botocore.exceptions.ClientError(answer, "PutRecord")) is verdict


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), Verdict.INFRASTRUCTURE),
        (FileNotFoundError(errno.ENOENT, "No such file"), Verdict.EVENT),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), Verdict.INFRASTRUCTURE),
        (ExceptionGroup("two", [OSError(errno.ENOSPC, "full"), ConnectionError()]), Verdict.INFRASTRUCTURE),
        (ExceptionGroup("two", [OSError(errno.ENOSPC, "full"), KeyError()]), Verdict.EVENT),
    ],
    ids=["disk full", "no file", "name resolution", "group", "mixed group"],
)
def test_errors_of_the_system(error: Exception, verdict: Verdict) -> None:
    assert classify(error) is verdict


def with_response(response: Any) -> Exception:
    error = Exception()
    error.response = response  # type: ignore[attr-defined]  # as the libraries do
    return error


class StrangeError(Exception):
    """An exception whose attributes fail."""

    @property
    def response(self) -> Any:
        raise RuntimeError("not sent")


class GrpcError(Exception):
    """As a stub of a test raises it."""

    def code(self) -> None:
        return None


GrpcError.__module__, GrpcError.__qualname__ = "grpc", "RpcError"


@pytest.mark.parametrize(
    "error",
    [
        StrangeError(),
        GrpcError(),
        with_response(SimpleNamespace(status_code=404, headers={"Retry-After": 5})),
        with_response(SimpleNamespace(status_code=404, headers=["Retry-After"])),
        with_response({"ResponseMetadata": None}),
        pymysql.err.OperationalError(["2013"], "gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_with_unexpected_attributes_is_the_event_s_fault(error: Exception) -> None:
    assert classify(error) is Verdict.EVENT
    assert retry_after(error) == 0.0


def test_a_header_that_is_no_text_is_left_out() -> None:
    error = with_response(SimpleNamespace(status_code=503, headers={"Retry-After": 5}))
    assert classify(error) is Verdict.INFRASTRUCTURE
    assert retry_after(error) == 0.0


@pytest.mark.parametrize("url", ["foo://127.0.0.1", "http:///rides"])
def test_an_address_that_the_event_has_wrong_is_its_fault(url: str) -> None:
    assert classify(raised_by(lambda: urlopen(url))) is Verdict.EVENT  # noqa: S310 - no request is made


@pytest.mark.anyio
async def test_a_retry_after_of_an_answer_that_is_no_outage_is_not_waited_for(service: Service) -> None:
    scenario = Scenario(f"memory://{secrets.token_hex(4)}")

    @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=1, backoff=0.001, max_backoff=0.001)
    def duration(ride: Ride) -> Duration:
        CALLS["httpx_status"](service, "404/later")
        raise AssertionError

    with anyio.fail_after(5):
        await scenario.run([Ride(0, 1.0)])
    scenario.check(answered=set(), dead_letters={0})
