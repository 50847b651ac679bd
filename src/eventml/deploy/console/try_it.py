"""The page that sends one event to a predictor: a form made from the type of its events."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

import msgspec

from eventml.bus import Bus
from eventml.deploy.console.broker import Broker
from eventml.deploy.console.collector import Collector
from eventml.deploy.console.numbers import loaded_models
from eventml.deploy.console.templates import Content
from eventml.errors import EventMLError, UnavailableError
from eventml.event_examples import example_of
from eventml.event_types import json_decoder, json_schemas
from eventml.handlers import Handler
from eventml.printable import printable

log = logging.getLogger("eventml.console")

_FIELD: Final = "field."  # how the names of the form's fields begin
_PATIENCE: Final = 10.0  # seconds for an answer over the bus


class TryIt:
    """Sends events to the predictors of a bus: to its web service, at the address `web`, or over the bus."""

    def __init__(self, bus: Bus, collector: Collector, broker: Broker, token: str, web: str | None) -> None:
        self._bus = bus
        self._collector = collector
        self._broker = broker
        self._headers: dict[str, str | bytes] = {
            "authorization": f"Bearer {token}".encode(errors="surrogateescape"),
            "content-type": "application/json",
        }
        self._web = web

    def page(self, form: Mapping[str, str], query: Mapping[str, str], who: str) -> Content:
        """Return the form of the predictor that a query names, and the answer to the values of the query."""
        names = [name for name, one in self._bus.handlers.items() if one.outputs and not one.champion]
        if not names:
            return "try", {"name": ""}
        name = query["predictor"] if query.get("predictor") in names else names[0]
        fields = Form(self._bus.configured_handler(name))
        values = {"name": name, "names": names, "web": self._web, **fields.values(form)}
        if form:
            log.info("%s tried a predictor: %s", printable(who), name)
            try:
                values |= self._answer(fields.handler, fields.event(form))
            except (EventMLError, ValueError, TypeError) as exc:
                values["error"] = str(exc) or "not valid"
        return "try", values

    def _answer(self, handler: Handler, event: bytes) -> dict[str, Any]:
        start = time.perf_counter()
        found = self._ask(handler, event)
        took = time.perf_counter() - start
        url = shlex.quote(f"http://{self._web or '127.0.0.1:8000'}/predict/{handler.name}")
        data = f"-H content-type:application/json -d {shlex.quote(event.decode())}"
        return {
            "answer": msgspec.json.format(msgspec.json.encode(found)).decode(),
            "took": took,
            "version": loaded_models(self._collector.status()).get(handler.name, "-"),
            "curl": f'curl -H "authorization: Bearer $EVENTML_TOKEN" {data} {url}',
        }

    def _ask(self, handler: Handler, event: bytes) -> Any:
        limit = self._bus.settings.web.timeout
        if self._web is None:
            decoded = msgspec.json.decode(event)
            return self._broker.request(handler.topic, decoded, handler.name, min(limit, _PATIENCE))
        connection = HTTPConnection(self._web, timeout=limit)
        try:
            connection.request("POST", f"/predict/{handler.name}", event, self._headers)
            return msgspec.json.decode(connection.getresponse().read())
        except (OSError, HTTPException) as exc:
            raise UnavailableError(f"the web service does not answer at {self._web}: {exc}") from exc
        finally:
            connection.close()


class Form:
    """The form of one predictor, by the schema of its events."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        schema_of, components = json_schemas([handler.event_type], "#/components/schemas/{name}")
        schema = schema_of(handler.event_type)
        whole: dict[str, Any] = components.get(schema.get("$ref", "").rpartition("/")[2], schema)
        self._fields: Mapping[str, Any] = whole.get("properties", {})  # none, if it is no object with fields
        self._required: Sequence[str] = whole.get("required", ())
        self._example: Any = example_of(schema, components)

    def event(self, form: Mapping[str, str]) -> bytes:
        """Return the event that a form describes, as JSON.

        Raises:
            ValueError: it does not fit the type of the events.
        """
        values = {name: form.get(f"{_FIELD}{name}", "") for name in self._fields}
        kept = {name: text for name, text in values.items() if text or name in self._required}
        fields = json.dumps({name: self._value(name, text) for name, text in kept.items()})
        body = (fields if self._fields else form.get("event", "")).encode()
        json_decoder(self.handler.event_type)(body)
        return body

    def _value(self, name: str, text: str) -> Any:
        """Return the text of a field that may be one, else the JSON in it."""
        schema = self._fields[name]
        kinds = {one.get("type") for one in schema.get("anyOf", [schema])}
        if text in schema.get("enum", ()) or (kinds <= {"string", "null"} and text != "null"):
            return text
        try:
            return json.loads(text)
        except ValueError:
            return text

    def values(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields with the given values, or those of an example; or the event, if it has none."""
        fields = []
        for name, schema in self._fields.items():
            given = self._example.get(name)
            text = form.get(f"{_FIELD}{name}", given if isinstance(given, str) else json.dumps(given))
            is_number = schema.get("type") in ("integer", "number")
            fields.append({"name": name, "text": text, "is_number": is_number})
        return {"fields": fields, "event": form.get("event") or json.dumps(self._example)}
