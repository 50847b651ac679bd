"""Responses: JSON, and problem details (RFC 9457) for requests that get no answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from eventml.runtime import DLQ_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.types import Send

    from eventml.records import Record

encode: Final = msgspec.json.Encoder().encode

_JSON: Final = b"application/json"
_PROBLEM_JSON: Final = b"application/problem+json"
_RETRY_AFTER: Final = {"retry-after": "1"}  # seconds: an overload ends within milliseconds, unless it lasts


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of a response to a request that failed, or of one failed event of a list.

    Attributes:
        status: HTTP status.
        title: Name of the status.
        detail: What is wrong with this request.
        path: JSONPath of the field at fault in the event: `$.trip_distance`.
        index: Index of the event at fault in the list, from 0.
    """

    status: int
    title: str
    detail: str = ""
    path: str = ""
    index: int | None = None


class Problem(Exception):  # noqa: N818 - a response to the client, not an error of the service
    """Raised to answer a request with problem details.

    Args:
        status: HTTP status.
        detail: What is wrong, and what the client can do.
        headers: Further headers of the response.
        reason: Text for the log that the client must not see; set only where the service is at fault.
        path: As in `ProblemDetails`.
        index: As in `ProblemDetails`.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        reason: str = "",
        path: str = "",
        index: int | None = None,
    ) -> None:
        self.details = ProblemDetails(status.value, status.phrase, detail, path, index)
        self.headers = dict(headers or {})
        self.reason = reason
        super().__init__(detail)


def unavailable(detail: str, reason: str = "", *, advice: str = "try again") -> Problem:
    """Return a 503 problem, which asks the client to try again."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"{detail}; {advice}", headers=_RETRY_AFTER, reason=reason)


def malformed(error: object) -> Problem:
    """Return the problem of a body that is not JSON."""
    return Problem(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}")


def invalid(error: msgspec.ValidationError, index: int | None = None) -> Problem:
    """Return the problem of an event that does not fit its type, with the path of the field at fault."""
    detail, _, path = str(error).partition(" - at `")
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, path=path.rstrip("`") or "$", index=index)


def handler_failure(dead_letter: Record) -> Problem:
    """Return the problem that a dead letter stands for.

    The message of a `Reject` is meant for the client. Messages of all other exceptions go to the log only:
    they may contain anything.
    """
    exception = dead_letter.headers[f"{DLQ_PREFIX}exception"]
    message = dead_letter.headers.get(f"{DLQ_PREFIX}message", "")
    reason = message or exception
    match exception:
        case "Reject":
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, message.removeprefix("Reject").lstrip(": "))
        case "UnavailableError":
            return unavailable("a service that the predictor needs is out of reach", reason)
        case "StaleError":
            return unavailable("the event is older than max_age allows", reason)
        case "HandlerTimeoutError":
            return Problem(HTTPStatus.GATEWAY_TIMEOUT, "the predictor exceeded its time limit", reason=reason)
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the predictor failed; see its log", reason=reason)


async def send_json(send: Send, status: HTTPStatus, body: bytes) -> None:
    """Send a response whose body is encoded JSON."""
    await _send(send, status.value, _JSON, body)


async def send_problem(send: Send, problem: Problem) -> None:
    """Send problem details as a response."""
    headers = ((name.encode(), value.encode("latin-1")) for name, value in problem.headers.items())
    await _send(send, problem.details.status, _PROBLEM_JSON, encode(problem.details), headers)


async def _send(
    send: Send, status: int, content_type: bytes, body: bytes, more: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
