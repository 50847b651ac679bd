"""A request's body, read within limits and taken apart, so that one bad event does not spoil the others."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from eventml.deploy.web.problems import Problem, malformed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import Receive, Scope

    from eventml.config import WebSettings

ID: Final = b"ce-id"
_TRACE: Final = ("traceparent", "tracestate")
KEY: Final = b"ce-partitionkey"
# CloudEvents' own names, by its HTTP binding.

_WHITESPACE: Final = b" \t\r\n"
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Gone(Exception):  # noqa: N818 - no error: there is nobody left to tell
    """The client left before it had sent its request."""


class Body(msgspec.Struct, frozen=True):
    """A request's events, each as its own JSON.

    Attributes:
        events: The events.
        many: They came as a list, and so go the answers.
    """

    events: Sequence[bytes]
    many: bool


def header(scope: Scope, name: bytes) -> str | None:
    """A header's text; None where it is not there, or empty. Names are in lower case."""
    for found, value in scope["headers"]:
        if found == name:
            return str(value, "latin-1").strip() or None
    return None


def trace_context(scope: Scope) -> Mapping[str, str]:
    """The headers that say which trace a request is part of (W3C Trace Context)."""
    said = {name: header(scope, name.encode()) for name in _TRACE}
    return {name: value for name, value in said.items() if value is not None}


async def read_events(scope: Scope, receive: Receive, limits: WebSettings) -> Body:
    """The events of a request, once all of it is there.

    Raises:
        Problem: the body is not said to be JSON (415), too large or of too many events (413), too slow
            to come (408), or malformed (400).
        Gone: the client has left.
    """
    body = await _read(scope, receive, limits)
    text = body.lstrip(_WHITESPACE)
    if not text:
        raise malformed("it is empty; send an event, or a list of them")
    if not text.startswith(b"["):
        return Body([text], many=False)
    try:
        events = _split(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise malformed(exc) from exc
    if len(events) > limits.max_events:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"{len(events)} events; at most {limits.max_events} in one request (web.max_events)",
        )
    return Body([bytes(event) for event in events], many=True)


async def _read(scope: Scope, receive: Receive, limits: WebSettings) -> bytes:
    _check_headers(scope, limits.max_body)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.receive_timeout):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limits.max_body:
                    raise _too_large(limits.max_body)
                if not message.get("more_body"):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise Problem(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body did not come within {limits.receive_timeout:g} s (web.receive_timeout)",
            headers={"connection": "close"},
        ) from None


def _check_headers(scope: Scope, max_body: int) -> None:
    kind = length = None
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value
        elif name == b"content-length":
            length = value
    # A page of another site may send text or a form from its visitor's browser unasked, but no JSON.
    if kind != b"application/json" and not _is_json(kind):
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "the body is not said to be JSON; send the header content-type: application/json",
        )
    if length is not None and length.isdigit() and int(length) > max_body:
        raise _too_large(max_body)


def _is_json(kind: bytes | None) -> bool:
    return kind is not None and kind.partition(b";")[0].strip().lower() == b"application/json"


def _too_large(max_body: int) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body has more than {max_body} bytes (web.max_body)",
    )
