"""Classification of failures: is the infrastructure at fault, or the event?

No client library is imported: an exception of one is recognised by the qualified names of its classes, the
most specific one first, and by its attributes (an HTTP status, an SQLSTATE, an error code).
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

from eventml.backends.base import Completion
from eventml.errors import BackendError, DecodeError, HandlerTimeoutError, Reject, UnavailableError
from eventml.handler_options import HandlerOptions

MAX_RETRY_AFTER: Final = 120.0
"""The longest wait for a `Retry-After`, in seconds: a supervisor takes a much longer one for a stuck call."""

_BUILTIN: Final = (ConnectionError, TimeoutError, MemoryError, BackendError)
_ERRNOS: Final = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE),
    *(errno.ENOMEM, errno.ENOBUFS, errno.EBUSY, errno.EAGAIN, errno.ENETDOWN, errno.ENETUNREACH),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENOTCONN),
}
_SQLSTATES: Final = ("08", "28", "53", "57", "58", "25006", "25P03", "40001", "40P01", "55P03")
"""How the codes begin (PostgreSQL's documentation, appendix A): connections, logins, resources, shut-downs
and timeouts, the system; a replica that does not write, serialization failures, deadlocks, locks."""
_SQLITE_CODES: Final = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL),
}
_MYSQL_CODES: Final = {
    *(0, 1021, 1037, 1038, 1040, 1041, 1042, 1043, 1045, 1047, 1053, 1077, 1078, 1079, 1080, 1184, 1203),
    *(1205, 1213, 1226, 1290, 1836, *range(1152, 1162), *range(2000, 2056)),
}
"""MySQL's error reference: the server's shut-down, limits, locks and network, and the client's (2000 on)."""
_GRPC_CODES: Final = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"}
_AWS_CODES: Final = {
    *("Throttling", "ThrottlingException", "ThrottledException", "RequestThrottledException"),
    *("RequestThrottled", "TooManyRequestsException", "ProvisionedThroughputExceededException"),
    *("TransactionInProgressException", "RequestLimitExceeded", "BandwidthLimitExceeded"),
    *("LimitExceededException", "SlowDown", "PriorRequestNotComplete", "EC2ThrottledException"),
    *("RequestTimeout", "RequestTimeoutException"),
}
"""What botocore's own retries take for throttling, though the status is 400."""


class Failed(msgspec.Struct, frozen=True):
    """The result of an event that failed."""

    error: Exception


NOT_CALLED: Final = Failed(UnavailableError("not called, as an earlier event of its key failed"))
"""The result of an event that was not called, because an earlier event of its key had failed."""


CallResults = Sequence[Completion | Failed]
"""The results of one call of the handler for a batch, one for each event, in their order."""


def contains_rejects(outputs: Iterable[object]) -> bool:
    """Whether one of a handler's outputs is a `Reject`. It looks at each type once, as most have one."""
    return any(issubclass(type_, Reject) for type_ in set(map(type, outputs)))


class Verdict(Enum):
    """Which events of a batch a failure is about, and so what to do next."""

    INFRASTRUCTURE = "no event is at fault: retry the whole batch until it succeeds"
    EVENT = "an event is at fault: find it, retry it a few times, then move it to the dead letters"
    REJECTED = "an event is at fault, and a retry would not help: move it to the dead letters"


def classify(error: Exception, retry_on: tuple[type[Exception], ...] = ()) -> Verdict:
    """Classify a failure by its type; `retry_on` are failures of the infrastructure too.

    An exception group, as a handler's own task group raises it, has the verdict that all its exceptions have;
    if they differ, an event is at fault.
    """
    if isinstance(error, ExceptionGroup) and not isinstance(error, retry_on):
        verdicts = {classify(one, retry_on) for one in error.exceptions}
        return verdicts.pop() if len(verdicts) == 1 else Verdict.EVENT
    if isinstance(error, Reject | DecodeError):
        return Verdict.REJECTED
    if isinstance(error, retry_on):
        return Verdict.INFRASTRUCTURE
    if isinstance(error, HandlerTimeoutError):
        return Verdict.EVENT
    return Verdict.INFRASTRUCTURE if is_infrastructure(error) else Verdict.EVENT


def should_retry(error: Exception, attempts: int, options: HandlerOptions) -> bool:
    """Whether an event that has failed on its own this many times is tried again.

    If not, it is moved to the dead letters.
    """
    verdict = classify(error, options.retry_on)
    return verdict is Verdict.INFRASTRUCTURE or (verdict is Verdict.EVENT and attempts <= options.retries)


# Exceptions of client libraries


class _Response(NamedTuple):
    """The response of an HTTP service that a client has raised as an exception."""

    status: int
    headers: Mapping[str, str]


def is_infrastructure(error: BaseException) -> bool:
    """Whether an exception says that a service is unavailable, busy or throttles, or this machine is full.

    These are connections that fail, timeouts, full memories and disks, databases that are locked, and the
    HTTP statuses 408, 429 and 5xx (but not 501 and 505). Everything else may be the event's fault: a 404, a
    violated constraint.
    """
    if isinstance(error, _BUILTIN):
        return True
    try:
        response = _response_of(error)
        if response is not None and _is_throttled_or_down(response.status):
            return True
        if isinstance(error, OSError) and error.errno in _ERRNOS:
            return True
        for cls in type(error).__mro__:  # the first known one decides, the most specific
            if (decide := _FAMILIES.get(f"{cls.__module__}.{cls.__qualname__}")) is not None:
                return decide(error)
    except Exception:  # noqa: BLE001 - attributes of a foreign exception may be missing, or fail in any way
        return False
    return False


def retry_after(error: BaseException) -> float:
    """For how many seconds a service asks its clients to wait: its header `Retry-After` (RFC 9110, 10.2.3).

    0 if it does not say so, `MAX_RETRY_AFTER` at most.
    """
    try:
        headers = getattr(_response_of(error), "headers", {})
        text = headers.get("Retry-After") or headers.get("retry-after") or "0"
        if text.strip().isdecimal():
            seconds = float(text)
        else:
            from email.utils import parsedate_to_datetime  # noqa: PLC0415 - 20 modules, for a rare failure

            seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except Exception:  # noqa: BLE001 - as above
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _is_throttled_or_down(status: int) -> bool:
    return status in {408, 429} or (status // 100 == 5 and status not in {501, 505})  # noqa: PLR2004 - of RFC 9110


def _response_of(error: Any) -> _Response | None:
    """The response that an exception carries: as `response` in most clients, else as the exception itself."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        metadata = response.get("ResponseMetadata", {})
        status, headers = metadata.get("HTTPStatusCode"), metadata.get("HTTPHeaders")
    elif response is not None:  # httpx, requests, openai and other clients made from a specification
        status, headers = getattr(response, "status_code", None), getattr(response, "headers", None)
    elif any(f"{cls.__module__}.{cls.__qualname__}" in _RESPONSES for cls in type(error).__mro__):
        status = getattr(error, "status", None) or getattr(error, "code", None)
        headers = getattr(error, "headers", None)
    else:
        return None
    return _Response(status, headers or {}) if isinstance(status, int) else None


def _always(_: Any) -> bool:
    return True


def _by_original(error: Any) -> bool:
    """An exception around another one, which says what has happened."""
    original = getattr(error, "orig", None) or getattr(error, "reason", None)
    if getattr(error, "connection_invalidated", False):
        return True
    return isinstance(original, BaseException) and is_infrastructure(original)


def _by_sqlstate(error: Any) -> bool:
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code is not None and code.startswith(_SQLSTATES)


def _by_sqlstate_or_without(error: Any) -> bool:
    """A connection that failed has no SQLSTATE, as it comes from the server."""
    return (getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)) is None or _by_sqlstate(error)


def _by_mysql_code(error: Any) -> bool:
    code = getattr(error, "errno", None) or (error.args[0] if error.args else None)
    return code in _MYSQL_CODES


def _by_labels(error: Any) -> bool:
    labels = ("RetryableWriteError", "TransientTransactionError")
    return bool(error.timeout) or any(map(error.has_error_label, labels))


def _by_aws_code(error: Any) -> bool:
    return error.response.get("Error", {}).get("Code") in _AWS_CODES


def _by_grpc_code(error: Any) -> bool:
    return callable(getattr(error, "code", None)) and error.code().name in _GRPC_CODES


_RESPONSES: Final = {"urllib.error.HTTPError", "aiohttp.client_exceptions.ClientResponseError"}

_FAMILIES: Final[dict[str, Callable[[Any], bool]]] = {
    "socket.gaierror": _always,
    "ssl.SSLError": _always,
    "urllib.error.HTTPError": lambda _: False,
    "urllib.error.URLError": _by_original,
    "http.client.IncompleteRead": _always,
    "http.client.BadStatusLine": _always,
    **{
        f"{module}.{name}": _always
        for module in ("httpx", "httpx2")
        for name in ("TimeoutException", "NetworkError", "ProxyError", "RemoteProtocolError")
    },
    "requests.exceptions.ConnectionError": _always,
    "requests.exceptions.Timeout": _always,
    "requests.exceptions.ChunkedEncodingError": _always,
    "requests.exceptions.RetryError": _always,
    "urllib3.exceptions.MaxRetryError": _by_original,
    "urllib3.exceptions.TimeoutError": _always,
    "urllib3.exceptions.ProtocolError": _always,
    "urllib3.exceptions.ProxyError": _always,
    "urllib3.exceptions.SSLError": _always,
    "urllib3.exceptions.ResponseError": _always,
    "urllib3.exceptions.EmptyPoolError": _always,
    "aiohttp.client_exceptions.ClientConnectionError": _always,
    "aiohttp.client_exceptions.ClientPayloadError": _always,
    "sqlalchemy.exc.DBAPIError": _by_original,
    "sqlalchemy.exc.DisconnectionError": _always,
    "sqlalchemy.exc.TimeoutError": _always,
    "sqlite3.OperationalError": lambda error: getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_CODES,
    "psycopg.Error": _by_sqlstate,
    "psycopg.OperationalError": _by_sqlstate_or_without,
    "psycopg2.Error": _by_sqlstate,
    "psycopg2.InterfaceError": _by_sqlstate_or_without,
    "psycopg2.OperationalError": _by_sqlstate_or_without,
    "asyncpg.exceptions._base.PostgresError": _by_sqlstate,
    "asyncpg.exceptions._base.InterfaceError": lambda error: not isinstance(error, ValueError),
    "pymysql.err.InterfaceError": _by_mysql_code,
    "pymysql.err.InternalError": _by_mysql_code,
    "pymysql.err.OperationalError": _by_mysql_code,
    "MySQLdb.InterfaceError": _by_mysql_code,
    "MySQLdb.OperationalError": _by_mysql_code,
    "redis.exceptions.ConnectionError": _always,
    "redis.exceptions.TimeoutError": _always,
    "redis.exceptions.ReadOnlyError": _always,
    "redis.exceptions.OutOfMemoryError": _always,
    "redis.exceptions.TryAgainError": _always,
    "redis.exceptions.ClusterDownError": _always,
    "redis.exceptions.SlotNotCoveredError": _always,
    "pymongo.errors.PyMongoError": _by_labels,
    "pymongo.errors.ConnectionFailure": _always,
    "pymongo.errors.ExecutionTimeout": _always,
    "pymongo.errors.WTimeoutError": _always,
    "botocore.exceptions.ConnectionError": _always,
    "botocore.exceptions.HTTPClientError": _always,
    "botocore.exceptions.ClientError": _by_aws_code,
    "grpc.RpcError": _by_grpc_code,
    "openai.APIConnectionError": _always,
}
"""By the qualified name of a class: whether an exception of it, or of a class derived from it, is a failure
of the infrastructure. An HTTP status is looked at before."""
