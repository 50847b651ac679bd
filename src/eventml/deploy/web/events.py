"""`POST /events/<topic>`: publish events; the topics of a bus, and the broker connection that this needs.

The broker is connected when the first event is published: a service that only predicts needs no broker, and a
service whose broker is away still predicts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import TaskGroup
from starlette.types import Receive, Scope, Send

from eventml import config
from eventml.bus import Bus
from eventml.deploy.web.http_messages import (
    EventDecoder,
    Problem,
    encode,
    read_events,
    send_response,
    unavailable,
)
from eventml.deploy.web.request_backend import RequestEvent
from eventml.errors import BackendError, EventMLError, FullError, NotOpenError, PublishError, UnavailableError
from eventml.runtime import OutageLog, dead_letter_topic, output_event_types

log = logging.getLogger("eventml")

_OWN: Final = {"id", "partitionkey", "specversion", "datacontenttype"}  # the producer writes them
_DEAD_LETTERS: Final = dead_letter_topic("", "").removeprefix(".")  # how the name of each such topic ends


def accepted_topics(bus: Bus) -> dict[str, Any]:
    """Return the topics to which clients may publish, and the type of the events of each, or Any.

    They are those that a handler reads and none writes, dead-letter topics excepted, and `web.extra_topics`.
    The type is that of the topic's description, else that of a handler that reads it, else that of a handler
    that writes it.
    """
    handlers = bus.handlers.values()
    found = [(name, bus.declared_topic(name).event_type) for name in (*bus.topics, *bus.settings.topic)]
    found += [(handler.topic, handler.event_type) for handler in handlers]
    topics_read = {handler.topic for handler in handlers}
    found += [
        (topic, type_)
        for handler in handlers
        for topic, type_ in output_event_types(handler).items()
        if topic not in topics_read
    ]
    types: dict[str, Any] = {}
    for topic, event_type in found:
        if types.get(topic, Any) is Any:
            types[topic] = event_type
    written = {topic for handler in handlers for topic in handler.outputs}
    accepted = {topic for topic in topics_read - written if not topic.endswith(_DEAD_LETTERS)}
    accepted |= {*bus.settings.web.extra_topics}
    return {topic: types.get(topic, Any) for topic in sorted(accepted)}


class BrokerConnection:
    """Opens a bus when an event is to be published. A bus that is open already is used as it is."""

    def __init__(self, bus: Bus, tasks: TaskGroup, outages: OutageLog) -> None:
        self.bus = bus
        self.outages = outages
        self._tasks = tasks  # a task of these keeps the bus open after the request that opened it
        self._opened: asyncio.Future[None] | None = None
        settings = bus.settings.backend
        self._is_shared = config.find_backend(settings.scheme).capabilities(settings.options).shared

    @property
    def _is_open(self) -> bool:
        with suppress(NotOpenError):
            return self.bus.open_producer is not None
        return False

    def check_shared(self) -> None:
        """Refuse to publish events that no process could read.

        Raises:
            Problem: the bus's backend lives in this process, and the app around the service has not opened
                the bus.
        """
        if not self._is_shared and not self._is_open:
            raise Problem(
                HTTPStatus.NOT_IMPLEMENTED,
                "events of this bus do not leave this process, where nobody reads them; name a backend that "
                "processes share, with --backend redis://... or kafka://..., EVENTML_BACKEND or eventml.toml",
            )

    async def open(self) -> None:
        """Open the bus unless it is open. Requests that wait for it share one attempt to open it.

        Raises:
            EventMLError: it cannot be opened. The next call tries again.
        """
        if self._is_open:
            return
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_future()
            self._tasks.start_soon(self._keep_open, self._opened)
        await asyncio.shield(self._opened)  # a request that is cancelled must not cancel it for others

    async def _keep_open(self, opened: asyncio.Future[None]) -> None:
        error: EventMLError = UnavailableError("the service is stopping")
        try:
            async with self.bus.open():
                opened.set_result(None)
                await anyio.sleep_forever()
        except EventMLError as exc:
            error = exc
            if opened.done():
                log.warning("the bus has closed: %s; the next event to be published opens it again", exc)
        finally:
            self._opened = None
            if not opened.done():
                opened.set_exception(error)
                opened.exception()  # nobody may be left to retrieve it


class EventsEndpoint:
    """The ASGI app of one topic."""

    def __init__(self, connection: BrokerConnection, topic: str, event_type: Any) -> None:
        settings = connection.bus.declared_topic(topic)
        self._connection = connection
        self._topic = topic
        self._is_json = settings.codec == "json"
        self._decoder = EventDecoder(event_type, settings.id_field, strict=settings.strict)
        self._limits = connection.bus.settings.web

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Publish the events of a request as they were sent, with fields that their type does not have.

        They get the CloudEvents attributes of the request.

        Raises:
            Problem: an event does not fit the type, and none was published; or the broker did not take all,
                or cannot be reached.
        """
        self._connection.check_shared()
        events, is_list, attributes = await read_events(scope, receive, self._limits, self._decoder)
        for event in events:
            if isinstance(event.event, Problem):
                raise event.event
        await self._publish(events, attributes)
        answers = [{"id": event.id} for event in events]
        await send_response(send, HTTPStatus.ACCEPTED, encode(answers if is_list else answers[0]))

    async def _publish(self, events: Sequence[RequestEvent], attributes: Mapping[str, str]) -> None:
        bus, topic = self._connection.bus, self._topic
        headers = {f"ce_{name}": text for name, text in attributes.items() if name not in _OWN}
        encoded = msgspec.Raw if self._is_json else msgspec.json.decode
        try:
            async with asyncio.timeout(self._limits.timeout):
                await self._connection.open()
                options: Any = {"key": attributes.get("partitionkey") or None, "headers": headers}
                calls = (bus.publish(topic, encoded(one.value), id=one.id, **options) for one in events)
                results = await asyncio.gather(*calls, return_exceptions=True)
                failed = [result for result in results if result is not None]
        except TimeoutError:
            failed = [UnavailableError(f"no answer from the broker within {self._limits.timeout:g} s")]
        except BackendError as exc:
            failed = [exc]
        step = f"publish to {topic}"
        if not failed:
            self._connection.outages.succeeds(step)
            return
        error = failed[0]
        some = f" ({len(failed)} of {len(events)} events may be missing)" if len(events) > 1 else ""
        if isinstance(error, PublishError) and not isinstance(error, FullError):
            status, detail = HTTPStatus.UNPROCESSABLE_ENTITY, f"the broker refuses the event{some}"
            raise Problem(status, detail, reason=str(error)) from error
        if isinstance(error, BackendError):
            detail = f"the broker is out of reach or full{some}"
            self._connection.outages.fails(step, error)
            raise unavailable(detail, advice="try again with the same ids") from error
        raise error
