"""The page that sends one event to a predictor: a form made from the type of its events."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.deploy.console.html import Html, duration, lines, part
from eventml.errors import EventMLError
from eventml.event_examples import example_of
from eventml.event_types import json_decoder, json_schemas

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventml.handlers import Handler

_FIELD: Final = "field."  # how the names of the form's fields begin


class Form:
    """The form of one predictor."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        schema_of, components = json_schemas([handler.event_type], "#/components/schemas/{name}")
        schema = schema_of(handler.event_type)
        self._schema: dict[str, Any] = components.get(schema.get("$ref", "").rpartition("/")[2], schema)
        example = example_of(schema, components)
        self._example = example if isinstance(example, dict) else {}
        self._whole = example

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

    def render(self, form: Mapping[str, str]) -> list[Html]:
        """Return the fields, with what was filled in, or an example."""
        if not self.fields:
            return [part("textarea", text=lines(form.get("event") or json.dumps(self._whole)))]
        return [self._input(name, form) for name in self.fields]

    def _input(self, name: str, form: Mapping[str, str]) -> Html:
        given = self._example.get(name)
        text = form.get(f"{_FIELD}{name}", given if isinstance(given, str) else json.dumps(given))
        number = self.fields[name].get("type") in ("integer", "number")
        mode = Html(' inputmode="decimal"') if number else ""
        return part("input", name=name, field=_FIELD + name, text=text, mode=mode)


def curl(handler: Handler, event: bytes, address: str | None) -> str:
    """Return the command that sends an event to the predictor of a web service."""
    url = f"http://{address or '127.0.0.1:8000'}/predict/{handler.name}"
    data = f"-H content-type:application/json -d {shlex.quote(event.decode())}"
    return f'curl -H "authorization: Bearer $EVENTML_TOKEN" {data} {shlex.quote(url)}'


def ask(send: Callable[[], Any], version: str, curl: str) -> Html:
    """Call a function that requests a prediction, and return the answer, or why there is none, as HTML."""
    start = time.perf_counter()
    try:
        answer = send()
    except EventMLError as exc:
        return part("problem", error=str(exc))
    took = duration(time.perf_counter() - start)
    encoded = msgspec.json.format(msgspec.json.encode(answer)).decode()
    return part("answer", answer=lines(encoded), took=took, version=version, curl=curl)
