"""The service described by OpenAPI 3.1, from the types of its events and predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.deploy.web.problems import Details
from eventml.runtime import output_event_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from eventml.config import WebSettings
    from eventml.handlers import Handler

Schema = dict[str, Any]

_REFS: Final = "#/components/schemas/{name}"
_PROBLEM: Final = {"$ref": _REFS.format(name="Details")}

_COMMON: Final = {
    "400": "The body is not JSON.",
    "401": "The token is missing or wrong.",
    "403": "There is no token, and the request came from elsewhere.",
    "408": "The body came too slowly.",
    "413": "The body is too large, or a list of too many events.",
    "415": "The body is not said to be JSON.",
    "422": "The event does not fit its type, or is rejected; `path` says where.",
    "500": "The service is at fault.",
    "503": "Too much to do, or something is out of reach: try again after `Retry-After` seconds.",
}


def describe(
    bus: str,
    predictors: Sequence[Handler],
    topics: Mapping[str, Any],
    limits: WebSettings,
    *,
    version: str,
    token: bool,
) -> Schema:
    """The whole document.

    Args:
        bus: The bus's name.
        predictors: What can be asked.
        topics: What can be announced to, and the types of their events.
        limits: What a request may ask.
        version: The service's.
        token: Whether callers must know one.
    """
    types = _described_types(
        [*(h.event_type for h in predictors), *map(output_event_type, predictors), *topics.values(), Details]
    )
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFS)
    known = list(zip(types, schemas, strict=True))
    paths: Schema = {}
    for handler in predictors:
        paths[f"/predict/{handler.name}"] = {"post": _predict(handler, known, limits)}
    for topic, event_type in topics.items():
        paths[f"/events/{topic}"] = {"post": _announce(topic, _schema(event_type, known), limits)}
    document: Schema = {
        "openapi": "3.1.0",
        "info": {"title": bus, "version": version, "description": "Served by eventml."},
        "paths": paths,
        "components": {"schemas": components},
    }
    if token:
        document["components"] |= {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        document["security"] = [{"token": []}]
    return document


def _described_types(types: Iterable[Any]) -> list[Any]:
    """Those that JSON Schema can describe, each once."""
    found: list[Any] = []
    for kind in types:
        if kind in found:
            continue
        try:
            msgspec.json.schema(kind)
        except (TypeError, RecursionError):
            continue
        found.append(kind)
    return found


def _schema(kind: Any, known: Sequence[tuple[Any, Schema]]) -> Schema:
    return next((schema for one, schema in known if one == kind), {})


def _predict(handler: Handler, known: Sequence[tuple[Any, Schema]], limits: WebSettings) -> Schema:
    event, output = _schema(handler.event_type, known), _schema(output_event_type(handler), known)
    answer = _answer(output)
    failed = {
        "type": "object",
        "required": ["input", "error"],
        "properties": {"input": {"type": "string"}, "error": _PROBLEM},
    }
    many = {"type": "array", "items": answer}
    some = {"type": "array", "items": {"anyOf": [answer, failed]}}
    return {
        "operationId": f"predict_{handler.name}",
        "summary": f"Ask {handler.name}",
        "description": (handler.function.__doc__ or "").strip(),
        "parameters": [_header("ce-id", "The event's id. Of one event only.")],
        "requestBody": _body(event, limits),
        "responses": {
            "200": _response("Each event's answer, in their order.", {"anyOf": [answer, many]}),
            "207": _response("Of a list: some answers, and the others' errors in their places.", some),
            **_problems("504", "No answer within the time limit."),
        },
    }


def _answer(output: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["id", "input", "model", "version", "prediction"],
        "properties": {
            "id": {"type": ["string", "null"], "description": "The prediction's, as on a stream."},
            "input": {"type": "string", "description": "The event's id."},
            "model": {"type": ["string", "null"]},
            "version": {"type": ["string", "null"], "description": "The model's."},
            "prediction": {"anyOf": [output, {"type": "null"}], "description": "null where there is none."},
        },
    }


def _announce(topic: str, event: Schema, limits: WebSettings) -> Schema:
    told = {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}
    return {
        "operationId": f"announce_{topic}",
        "summary": f"Publish to {topic}",
        "description": "Once this is answered, the broker has it. A list is published if all its events fit.",
        "parameters": [
            _header("ce-id", "The event's id. Of one event only."),
            _header("ce-partitionkey", "The events' key: those of one key keep their order."),
        ],
        "requestBody": _body(event, limits),
        "responses": {
            "202": _response("Published.", {"anyOf": [told, {"type": "array", "items": told}]}),
            **_problems("501", "No broker that others share is configured."),
        },
    }


def _body(event: Schema, limits: WebSettings) -> Schema:
    many = {"type": "array", "items": event, "maxItems": limits.max_events}
    return {"required": True, "content": {"application/json": {"schema": {"anyOf": [event, many]}}}}


def _header(name: str, description: str) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


def _response(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems(status: str, description: str) -> Schema:
    content = {"application/problem+json": {"schema": _PROBLEM}}
    return {
        code: {"description": said, "content": content}
        for code, said in {**_COMMON, status: description}.items()
    }
