"""The page that sends one event to a predictor: a form made from the type of its events."""

from __future__ import annotations

import json
import math
import shlex
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.deploy.console.html import Html, duration, html, lines
from eventml.errors import EventMLError
from eventml.event_examples import example_of
from eventml.event_types import json_decoder, json_schemas

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventml.bus import Bus
    from eventml.handlers import Handler

_FIELD: Final = "field."  # how the names of the form's fields begin
_STEPS: Final = {"integer": "1", "number": "any"}


class Form:
    """The form of one predictor."""

    def __init__(self, bus: Bus, handler: Handler) -> None:
        self._handler = handler
        schema_of, components = json_schemas([handler.event_type], "#/components/schemas/{name}")
        schema = schema_of(handler.event_type)
        self._schema: dict[str, Any] = components.get(schema.get("$ref", "").rpartition("/")[2], schema)
        example = example_of(schema, components)
        self._example = example if isinstance(example, dict) else {}
        self._whole = example
        self._topic = bus.declared_topic(handler.topic)

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of the form with their schemas; none if the event is not an object with fields."""
        found: Mapping[str, Any] = self._schema.get("properties", {})
        return found

    def event(self, form: Mapping[str, str]) -> bytes:
        """Return the event that a form describes, as JSON.

        Raises:
            ValueError: it does not fit the type of the events.
        """
        if not self.fields:
            body = form.get("event", "").encode()
        else:
            values = {name: form.get(f"{_FIELD}{name}", "") for name in self.fields}
            optional = {*self.fields} - {*self._schema.get("required", ())}
            kept = {name: text for name, text in values.items() if text or name not in optional}
            body = json.dumps({name: self._value(name, text) for name, text in kept.items()}).encode()
        json_decoder(self._handler.event_type)(body)
        return body

    def _value(self, name: str, text: str) -> Any:
        if self.fields[name].get("type") == "string" or "enum" in self.fields[name]:
            return text
        try:
            return json.loads(text)
        except ValueError:
            return text

    def render(self, form: Mapping[str, str]) -> Html:
        """Return the fields, with what was filled in, or an example."""
        if not self.fields:
            text = form.get("event") or json.dumps(self._whole)
            return html(
                '<label>event as JSON <textarea name="event">{text}</textarea></label>', text=lines(text)
            )
        return html("{fields}", fields=[self._input(name, form) for name in self.fields])

    def _input(self, name: str, form: Mapping[str, str]) -> Html:
        schema, given = self.fields[name], self._example.get(name)
        text = form.get(f"{_FIELD}{name}", given if isinstance(given, str) else json.dumps(given))
        kind = schema.get("type", "")
        attributes: Html | str = ""
        if kind in _STEPS and _is_number(text):  # else the browser would show an empty field
            attributes = html(' type="number" step="{step}"', step=_STEPS[kind])
        return html(
            '<label>{name} <input name="{field}" value="{text}"{attributes}></label>',
            name=name,
            field=_FIELD + name,
            text=text,
            attributes=attributes,
        )


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def curl(handler: Handler, event: bytes, address: str | None) -> str:
    """Return the command that sends an event to the predictor of a web service."""
    url = f"http://{address or '127.0.0.1:8000'}/predict/{handler.name}"
    data = f"-H content-type:application/json -d {shlex.quote(event.decode())}"
    return f'curl -H "authorization: Bearer $EVENTML_TOKEN" {data} {shlex.quote(url)}'


def ask(send: Callable[[], Any]) -> Html:
    """Call a function that requests a prediction, and return the answer, or why there is none, as HTML."""
    start = time.perf_counter()
    try:
        answer = send()
    except EventMLError as exc:
        return html('<p class="bad" role="alert">{error}</p>', error=str(exc))
    took = time.perf_counter() - start
    encoded = msgspec.json.format(msgspec.json.encode(answer)).decode()
    return html(
        '<h3>Answer</h3><pre role="status">{answer}</pre><p>in {took}</p>',
        answer=lines(encoded),
        took=duration(took),
    )
