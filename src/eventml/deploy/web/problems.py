"""What a caller is told when there is no answer: RFC 9457's problem details, and what failures mean there."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.backends.base import Completion
from eventml.runtime import DLQ_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_TYPE: Final = b"application/problem+json"
RETRY_AFTER: Final = 1
"""Seconds: overload here is a matter of milliseconds, unless it lasts."""


class Details(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why there is no answer.

    Attributes:
        status: The HTTP status.
        title: What kind of problem it is.
        detail: What this one is.
        path: Where in the event the fault is, as JSONPath has it: `$.trip_distance`.
        index: Which event of a list it is about, from 0.
    """

    status: int
    title: str
    detail: str = ""
    path: str = ""
    index: int | None = None


class Problem(Exception):  # noqa: N818 - an answer to the caller, not an error of ours
    """Raised where a request cannot be answered as it asks.

    Args:
        status: The HTTP status.
        detail: What is wrong and what to do.
        headers: Further headers.
        reason: What the log says of it, and the caller is not told. Given where we are at fault.
        more: Further fields of `Details`.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        reason: str = "",
        **more: Any,
    ) -> None:
        self.details = Details(status.value, status.phrase, detail, **more)
        self.headers = dict(headers or {})
        self.reason = reason
        super().__init__(detail)


def overloaded(detail: str) -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE, f"{detail}; try again", headers={"retry-after": str(RETRY_AFTER)}
    )


def malformed(why: object) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {why}")


def invalid(why: msgspec.ValidationError, index: int | None = None) -> Problem:
    """An event of the wrong fields; says where."""
    said, _, path = str(why).partition(" - at `")
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, said, path=path.rstrip("`") or "$", index=index)


def letter(completion: Completion) -> Mapping[str, str] | None:
    """The headers of the dead letter of a completion; None if it has none."""
    return completion.outputs[0].headers if completion.dead_letter else None


_MEANINGS: Final[dict[str, tuple[HTTPStatus, str]]] = {
    "UnavailableError": (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "something that the predictor needs is out of reach; try again",
    ),
    "HandlerTimeoutError": (HTTPStatus.GATEWAY_TIMEOUT, "the predictor ran past its time limit"),
    "StaleError": (HTTPStatus.SERVICE_UNAVAILABLE, "the event waited too long for its turn; try again"),
}


def failure(letter_headers: Mapping[str, str], event: bytes, decoder: msgspec.json.Decoder[Any]) -> Problem:
    """What a dead letter means to the one who asked.

    What a handler's own exceptions say stays in the log: it may be about anything. What it says by
    `Reject` is for the caller.

    Args:
        letter_headers: Those of the letter.
        event: Its event.
        decoder: Of the event's type.
    """
    kind = letter_headers[f"{DLQ_PREFIX}exception"]
    message = letter_headers.get(f"{DLQ_PREFIX}message", "")
    if kind == "DecodeError":
        try:
            decoder.decode(event)
        except msgspec.ValidationError as exc:
            return invalid(exc)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return malformed(exc)
    if kind == "Reject":
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, message.removeprefix("Reject").lstrip(": "))
    if kind in _MEANINGS:
        status, said = _MEANINGS[kind]
        again = {"retry-after": str(RETRY_AFTER)} if status is HTTPStatus.SERVICE_UNAVAILABLE else None
        return Problem(status, said, headers=again, reason=message or kind)
    said = "the predictor failed; its log says why"
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, said, reason=message or kind)
