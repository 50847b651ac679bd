"""The description of the service in OpenAPI 3.1, from the types of its events and predictions."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.deploy.web.responses import ProblemDetails
from eventml.runtime import output_event_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from eventml.config import WebSettings
    from eventml.handlers import Handler

Schema = dict[str, Any]
Known = list[tuple[Any, Schema]]

_REFS: Final = "#/components/schemas/{name}"
_PROBLEM: Final = {"$ref": _REFS.format(name=ProblemDetails.__name__)}
_STRING: Final = {"type": "string"}
_STRING_OR_NULL: Final = {"type": ["string", "null"]}

_COMMON_PROBLEMS: Final = {
    "400": "The body is not JSON.",
    "401": "The token is missing or wrong.",
    "403": "The service has no token, and the request came from another machine.",
    "408": "The body arrived too slowly.",
    "413": "The body is too large, or holds too many events.",
    "415": "The content type is not JSON.",
    "422": "The event does not fit its type (`path` names the field), or the predictor rejects it.",
    "500": "The service is at fault.",
    "503": "The service is overloaded, or something it needs is out of reach: try again after `Retry-After` "
    "seconds.",
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
    """Return the OpenAPI document of a service.

    Args:
        bus: Name of the bus.
        predictors: The predictors that are served.
        topics: The topics that can be published to, and the types of their events.
        limits: Limits of a request.
        version: Version of the service.
        token: Whether clients must send a token.
    """
    types = [ProblemDetails, *topics.values()]
    for handler in predictors:
        types += [handler.event_type, output_event_type(handler)]
    known, components = _schemas(types)
    paths: Schema = {}
    for handler in predictors:
        paths[f"/predict/{handler.name}"] = {"post": _predict_operation(handler, known, limits)}
    for topic, event_type in topics.items():
        paths[f"/events/{topic}"] = {"post": _events_operation(topic, _schema(event_type, known), limits)}
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


def _schemas(types: Iterable[Any]) -> tuple[Known, Schema]:
    """The schemas of those types that have one, and the components that they refer to."""
    found: list[Any] = []
    for event_type in types:
        with suppress(TypeError, RecursionError):  # raised for a type that JSON Schema cannot describe
            msgspec.json.schema(event_type)
            if event_type not in found:
                found.append(event_type)
    schemas, components = msgspec.json.schema_components(found, ref_template=_REFS)
    return list(zip(found, schemas, strict=True)), components


def _schema(event_type: Any, known: Known) -> Schema:
    return next((schema for one, schema in known if one == event_type), {})


def _predict_operation(handler: Handler, known: Known, limits: WebSettings) -> Schema:
    answer = _object(
        id={**_STRING_OR_NULL, "description": "Id of the prediction, the same as on a stream."},
        input={**_STRING, "description": "Id of the event."},
        model=_STRING_OR_NULL,
        version={**_STRING_OR_NULL, "description": "Version of the model."},
        prediction={
            "anyOf": [_schema(output_event_type(handler), known), {"type": "null"}],
            "description": "null if the predictor gives none.",
        },
    )
    failed = _object(input=_STRING, error=_PROBLEM)
    return {
        "operationId": f"predict_{handler.name}",
        "summary": f"Predictions of {handler.name}",
        "description": (handler.function.__doc__ or "").strip(),
        "parameters": [_header("ce-id", "Id of the event, if it is a single one.")],
        "requestBody": _body(_schema(handler.event_type, known), limits),
        "responses": {
            "200": _response("The prediction of each event, in their order.", _one_or_list(answer)),
            "207": _response(
                "For a list: predictions of some events, and the problems of the others in their places.",
                {"type": "array", "items": {"anyOf": [answer, failed]}},
            ),
            **_problems("504", "No prediction within the time limit."),
        },
    }


def _events_operation(topic: str, event: Schema, limits: WebSettings) -> Schema:
    return {
        "operationId": f"publish_{topic}",
        "summary": f"Publish to {topic}",
        "description": "The broker has the events once this is answered. A list is published if all fit.",
        "parameters": [
            _header("ce-id", "Id of the event, if it is a single one."),
            _header("ce-partitionkey", "Key of the events: events with the same key keep their order."),
        ],
        "requestBody": _body(event, limits),
        "responses": {
            "202": _response("Published.", _one_or_list(_object(id=_STRING))),
            **_problems("501", "The bus has no broker that other processes can read."),
        },
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _one_or_list(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "array", "items": schema}]}


def _body(event: Schema, limits: WebSettings) -> Schema:
    events = {"type": "array", "items": event, "maxItems": limits.max_events}
    return {"required": True, "content": {"application/json": {"schema": {"anyOf": [event, events]}}}}


def _header(name: str, description: str) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": _STRING}


def _response(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems(status: str, description: str) -> Schema:
    """The responses with problem details: those of every operation, and one more."""
    content = {"application/problem+json": {"schema": _PROBLEM}}
    return {
        code: {"description": text, "content": content}
        for code, text in {**_COMMON_PROBLEMS, status: description}.items()
    }
