"""HTTP requests and responses: bodies within limits, events with ids, JSON, problem details (RFC 9457).

The JSON of a request is parsed once to split a list into its events, so that one bad event does not spoil the
others, and once to decode each event.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from http import HTTPStatus
from itertools import count, islice, repeat
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from eventml.config import WebSettings
from eventml.deploy.web.request_backend import RequestEvent
from eventml.event_types import json_decoder
from eventml.records import NO_HEADERS
from eventml.runtime import describe

T = TypeVar("T")

_ATTRIBUTE: Final = b"ce-"  # how the header of an attribute begins in CloudEvents' HTTP binding
_STRUCTURED: Final = "application/cloudevents+json"
_NAME: Final = re.compile(r"[a-z0-9]+")
_MOST: Final = 100  # attributes in a body: as many as the server takes headers
_MOST_BYTES: Final = 65_536
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_TRACE_CONTEXT: Final = ("traceparent", "tracestate")
_RETRY_AFTER: Final = {"retry-after": "1"}  # seconds: an overload ends within milliseconds, unless it lasts
_STEP: Final = 20  # events: less than a millisecond
_BAD_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

encode: Final = msgspec.json.Encoder().encode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


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
        detail: What is wrong, and what the client can do.
        headers: Further headers of the response.
        reason: Text for the log that the client must not see; set only where the service is at fault.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        reason: str = "",
        path: str = "",
        index: int | None = None,
    ) -> None:
        self.details = ProblemDetails(status.value, status.phrase, detail, path, index)
        self.headers = headers
        self.reason = reason
        super().__init__(detail)


def unavailable(detail: str, *, advice: str = "try again") -> Problem:
    """Return a 503 problem, which asks the client to try again."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"{detail}; {advice}", headers=_RETRY_AFTER)


async def send_response(
    send: Send,
    status: int,
    body: bytes,
    content_type: str = "application/json",
    headers: Mapping[str, str] = NO_HEADERS,
) -> None:
    """Send a whole response."""
    values = {"content-type": content_type, "content-length": str(len(body)), **headers}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in values.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def send_problem(send: Send, problem: Problem) -> None:
    """Send problem details as a response."""
    body = encode(problem.details)
    await send_response(send, problem.details.status, body, "application/problem+json", problem.headers)


def header(scope: Scope, name: bytes) -> str | None:
    """Return the value of a header, by its name in lower case; None if it is missing or empty."""
    for found, value in scope["headers"]:
        if found == name:
            return str(value, "latin-1").strip() or None
    return None


def trace_context(scope: Scope) -> Mapping[str, str]:
    """Return the headers that name the trace of a request (W3C Trace Context)."""
    values = {name: header(scope, name.encode()) for name in _TRACE_CONTEXT}
    return {name: value for name, value in values.items() if value is not None}


def _attribute(value: bytes) -> str:
    """Decode the value of a CloudEvents attribute: percent-encoded, quoted, or as it is, UTF-8 or Latin-1."""
    try:
        text = value.decode().strip()
    except UnicodeDecodeError:
        text = value.decode("latin-1").strip()
    if quoted := _QUOTED.fullmatch(text):
        text = re.sub(r"\\(.)", r"\1", quoted[1])
    return unquote(text, errors="strict")


def _open_envelope(text: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the data and the attributes of a CloudEvent in structured mode."""
    members = {name: bytes(value) for name, value in _members(text).items()}
    data = members.pop("data", b"null")
    if len(members) > _MOST or sum(map(len, (*members, *members.values()))) > _MOST_BYTES:
        error = f"the attributes are too large; an event may have {_MOST}, of {_MOST_BYTES} bytes together"
        raise Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, error)
    _check_names(members)
    return data, {
        name: value.decode() if value[0] in b"-0123456789tf" else msgspec.json.decode(value, type=str)
        for name, value in members.items()
        if value != b"null"
    }


def _check_names(attributes: Iterable[str]) -> None:
    if wrong := [name for name in attributes if not _NAME.fullmatch(name)]:
        error = f"{wrong[0][:40]!r} is no name of a CloudEvents attribute: they consist of a-z and 0-9"
        raise Problem(HTTPStatus.BAD_REQUEST, error)


async def read_events(
    scope: Scope, receive: Receive, limits: WebSettings, decoder: EventDecoder
) -> tuple[list[RequestEvent], bool, dict[str, str]]:
    """Read a request. Returns its events, whether they came as a list, and its CloudEvents attributes.

    Raises:
        Problem: the content type is not JSON (415); the body or the list is too large (413) or comes too
            slowly (408); the body is not JSON, an attribute has a wrong name or
            is not UTF-8, or there is an id for a list (400); the attributes in a body are too large (431).
        ClientDisconnect: the client has closed the connection (Starlette's error).
    """
    text = (await _receive_all(scope, receive, limits)).lstrip(b" \t\r\n")
    try:
        attributes = {
            str(name[len(_ATTRIBUTE) :], "latin-1"): text_value
            for name, value in scope["headers"]
            if name.startswith(_ATTRIBUTE) and (text_value := _attribute(value))
        }
    except UnicodeDecodeError as exc:
        raise Problem(HTTPStatus.BAD_REQUEST, "the percent-encoding of a header ce-... is not UTF-8") from exc
    _check_names(attributes)
    if not text:
        raise _malformed("it is empty; send an event, or a list of events")
    try:
        text.decode()  # msgspec does not look at the texts of fields that the type does not have
    except UnicodeDecodeError as exc:
        raise _malformed("it is not UTF-8") from exc
    if _media_type(scope) == _STRUCTURED:
        try:
            text, attributes = _open_envelope(text)
        except _BAD_JSON as exc:
            raise _malformed(exc) from exc
        return [decoder.decode(text, attributes.get("id"))], False, attributes
    event_id = attributes.get("id")
    if not text.startswith(b"["):
        return [decoder.decode(text, event_id)], False, attributes
    try:
        [values] = await decoder.in_turns(_split, [text])
    except _BAD_JSON as exc:
        raise _malformed(exc) from exc
    if event_id is not None:
        error = "the header ce-id is for a single event; put ids into the events of a list"
        raise Problem(HTTPStatus.BAD_REQUEST, error)
    if len(values) > limits.max_events:
        raise _too_large(f"{len(values)} events; a request may hold {limits.max_events} (web.max_events)")
    async with decoder.long_lists if len(values) > _STEP else nullcontext():
        events = await decoder.in_turns(decoder.decode, map(bytes, values), repeat(None), range(len(values)))
    return events, True, attributes


def _media_type(scope: Scope) -> str:
    return (header(scope, b"content-type") or "").partition(";")[0].strip().lower()


async def _receive_all(scope: Scope, receive: Receive, limits: WebSettings) -> bytes:
    # A page of another site can make its visitor's browser send text or a form here, but not JSON.
    if _media_type(scope) not in ("application/json", _STRUCTURED):
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON, with the header content-type: application/json"
        )
    too_large = f"the body is larger than {limits.max_body} bytes (web.max_body)"
    length = header(scope, b"content-length") or ""
    if length.isdecimal() and int(length) > limits.max_body:
        raise _too_large(too_large)
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(limits.receive_timeout):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if len(body) > limits.max_body:
                    raise _too_large(too_large)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Problem(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body did not arrive within {limits.receive_timeout:g} s (web.receive_timeout)",
            headers={"connection": "close"},
        ) from None
    return bytes(body)


def _too_large(detail: str) -> Problem:
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def _malformed(error: object) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}")


class EventDecoder:
    """Decodes the events of a topic. Their ids are those in the id field, or new ones, as a producer's."""

    def __init__(self, event_type: Any, id_field: str | None, *, strict: bool = True) -> None:
        self._decode = json_decoder(event_type, strict=strict)
        self._id_field = id_field
        is_struct = isinstance(event_type, type) and issubclass(event_type, msgspec.Struct)
        fields = msgspec.structs.fields(event_type) if is_struct else ()
        self._id_key = next((field.encode_name for field in fields if field.name == id_field), id_field)
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)
        self._turn = asyncio.Lock()
        self.long_lists = asyncio.Semaphore(8)  # decoded at once: problems are larger than their events

    async def in_turns(self, function: Callable[..., T], *columns: Any) -> list[T]:
        """As `list(map(...))`, in steps: a turn of the event loop has one, whatever the number of lists."""
        results: list[T] = []
        calls, total = map(function, *columns), len(columns[-1])
        while len(results) < total:
            async with self._turn:
                results += islice(calls, _STEP)
                await asyncio.sleep(0)
        return results

    def decode(self, value: bytes, event_id: str | None = None, index: int | None = None) -> RequestEvent:
        """Decode an event of a request; its event is a `Problem` if it is not JSON or does not fit the type.

        Its id is `event_id`, if the request names it; else that in the id field, or a new one. `index` is its
        place in a list, for the problem.
        """
        try:
            event = self._decode(value)
        except msgspec.ValidationError as exc:
            detail, _, path = str(exc).partition(" - at `")
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            problem = Problem(status, detail, path=path.rstrip("`") or "$", index=index)
            named = event_id is None and self._id_field is not None
            return RequestEvent(value, event_id or self._id_of(_untyped(value) if named else None), problem)
        except _BAD_JSON as exc:
            return RequestEvent(value, event_id or self._id_of(None), _malformed(exc))
        except Exception as exc:  # noqa: BLE001 - validators of the event's class may raise anything
            detail = f"the event is invalid: {describe(exc)}"
            problem = Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, path="$", index=index)
            return RequestEvent(value, event_id or self._id_of(_untyped(value)), problem)
        return RequestEvent(value, event_id or self._id_of(event), event)

    def _id_of(self, event: Any) -> str:
        if self._id_field is not None:
            with suppress(KeyError, AttributeError):
                is_dict = isinstance(event, dict)
                return str(event[self._id_key] if is_dict else getattr(event, self._id_field))
        return f"{self._prefix}-{next(self._numbers)}"


def _untyped(value: bytes) -> Any:
    """Return an event that does not fit its type as a dict: the client knows it by its id."""
    with suppress(*_BAD_JSON):
        event = msgspec.json.decode(value)
        return event if isinstance(event, dict) else None
    return None
