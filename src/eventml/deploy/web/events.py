"""`POST /events/<topic>`: the service as a producer."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from eventml.deploy.web.answers import encode, send_json
from eventml.deploy.web.identifying import Identifier
from eventml.deploy.web.problems import Problem, invalid, malformed
from eventml.deploy.web.requests import ID, KEY, header, read_events
from eventml.errors import BackendError, FullError, PublishError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Receive, Scope, Send

    from eventml.bus import Topic
    from eventml.config import WebSettings
    from eventml.deploy.web.connecting import Connection


class Announcing:
    """One topic's requests. It is called as an ASGI app.

    Args:
        name: The topic's.
        topic: What is said of it.
        event_type: The type of its events, as far as it is known.
        connection: To the bus's broker.
        limits: What a request may ask.
    """

    def __init__(
        self, name: str, topic: Topic, event_type: Any, connection: Connection, limits: WebSettings
    ) -> None:
        self._name = name
        self._connection = connection
        self._limits = limits
        self._plain = topic.codec == "json"
        self._decoder = msgspec.json.Decoder(event_type)
        self._identify = Identifier(topic.id_field, event_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_events(scope, receive, self._limits)
        said, key = header(scope, ID), header(scope, KEY)
        if said is not None and body.many:
            raise Problem(
                HTTPStatus.BAD_REQUEST, "ce-id names one event; a list's events have ids of their own"
            )
        for index, event in enumerate(body.events):
            self._check(event, index if body.many else None)
        ids = [self._identify(event, said) for event in body.events]
        await self._publish(body.events, ids, key)
        told = [{"id": id_} for id_ in ids]
        await send_json(send, HTTPStatus.ACCEPTED, encode(told if body.many else told[0]))

    def _check(self, event: bytes, index: int | None) -> None:
        """Nothing is published that no handler could decode: what a caller learns here, it can mend."""
        try:
            self._decoder.decode(event)
        except msgspec.ValidationError as exc:
            raise invalid(exc, index) from exc
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise malformed(exc) from exc

    async def _publish(self, events: Sequence[bytes], ids: Sequence[str], key: str | None) -> None:
        # What the caller sent goes out as it is, fields that no handler knows of included.
        values = [msgspec.Raw(e) if self._plain else msgspec.json.decode(e) for e in events]
        try:
            async with asyncio.timeout(self._limits.timeout):
                bus = await self._connection.bus()
                calls = (
                    bus.publish(self._name, value, key=key, id=id_)
                    for value, id_ in zip(values, ids, strict=True)
                )
                failed = [e for e in await asyncio.gather(*calls, return_exceptions=True) if e is not None]
        except TimeoutError:
            failed = [UnavailableError(f"no answer from the broker within {self._limits.timeout:g} s")]
        except BackendError as exc:
            failed = [exc]
        if failed:
            raise _problem(failed[0], len(failed), len(events)) from failed[0]


def _problem(error: BaseException, failed: int, events: int) -> Problem:
    some = f" ({failed} of {events} events may be missing)" if events > 1 else ""
    if isinstance(error, PublishError) and not isinstance(error, FullError):
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"the broker refuses it{some}", reason=str(error))
    if isinstance(error, BackendError):
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"the broker is out of reach or full{some}; try again with the same ids",
            headers={"retry-after": "1"},
            reason=str(error),
        )
    raise error
