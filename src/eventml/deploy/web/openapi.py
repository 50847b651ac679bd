"""The description of the service in OpenAPI 3.1, from the types of its events and predictions."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.deploy.web.http_messages import ProblemDetails
from eventml.runtime import output_event_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventml.config import WebSettings
    from eventml.handlers import Handler

Schema = dict[str, Any]

_REFS: Final = "#/components/schemas/{name}"
_PROBLEM: Final = {"$ref": _REFS.format(name=ProblemDetails.__name__)}
_STRING: Final = {"type": "string"}
_STRING_OR_NULL: Final = {"type": ["string", "null"]}


def describe(
    bus: str, predictors: Sequence[Handler], topics: Mapping[str, Any], limits: WebSettings, *, token: bool
) -> Schema:
    """Return the OpenAPI document of a service.

    Args:
        bus: Name of the bus.
        predictors: The predictors that are served.
        topics: The topics that can be published to, and the types of their events.
        limits: Limits of a request.
        token: Whether clients must send a token.
    """
    types = [ProblemDetails, *topics.values()]
    for handler in predictors:
        types += [handler.event_type, output_event_type(handler)]
    schema_of, components = _schemas(types)

    def body(event_type: Any) -> Schema:
        event = schema_of(event_type)
        events = {"type": "array", "items": event, "maxItems": limits.max_events}
        return {"required": True, **_json({"anyOf": [event, events]})}

    paths: Schema = {}
    for handler in predictors:
        paths[f"/predict/{handler.name}"] = {
            "post": {
                "operationId": f"predict_{handler.name}",
                "summary": f"Predictions of {handler.name}",
                "description": (handler.function.__doc__ or "").strip(),
                "parameters": [_header("ce-id", "Id of the event, if it is a single one.")],
                "requestBody": body(handler.event_type),
                "responses": _predictions(schema_of(output_event_type(handler))),
            }
        }
    for topic, event_type in topics.items():
        ids = _one_or_list(_object(id=_STRING))
        paths[f"/events/{topic}"] = {
            "post": {
                "operationId": f"publish_{topic}",
                "summary": f"Publish to {topic}",
                "description": "Once this is answered, the broker has the events. All of a list have to fit.",
                "parameters": [
                    _header("ce-id", "Id of the event, if it is a single one."),
                    _header(
                        "ce-partitionkey", "Key of the events: those with the same key keep their order."
                    ),
                ],
                "requestBody": body(event_type),
                "responses": _responses({"202": {"description": "Published.", **_json(ids)}}),
            }
        }
    document: Schema = {
        "openapi": "3.1.0",
        "info": {"title": bus, "version": version("eventml"), "description": "Served by eventml."},
        "paths": paths,
        "components": {"schemas": components},
    }
    if token:
        document["components"] |= {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        document["security"] = [{"token": []}]
    return document


def _schemas(types: Iterable[Any]) -> tuple[Callable[[Any], Schema], Schema]:
    """Return a function that gives the schema of a type, {} if it has none; and the components."""
    found: list[Any] = []
    for event_type in types:
        with suppress(TypeError, RecursionError):  # raised for a type that JSON Schema cannot describe
            msgspec.json.schema(event_type)
            if event_type not in found:
                found.append(event_type)
    schemas, components = msgspec.json.schema_components(found, ref_template=_REFS)
    known = list(zip(found, schemas, strict=True))
    return lambda event_type: next((schema for one, schema in known if one == event_type), {}), components


def _predictions(prediction: Schema) -> Schema:
    answer = _object(
        id={**_STRING_OR_NULL, "description": "Id of the prediction, the same as on a stream."},
        input={**_STRING, "description": "Id of the event."},
        model=_STRING_OR_NULL,
        version={**_STRING_OR_NULL, "description": "Version of the model."},
        prediction={
            "anyOf": [prediction, {"type": "null"}],
            "description": "null if the predictor gives none.",
        },
    )
    failed = _object(input=_STRING, error=_PROBLEM)
    some = "For a list: predictions of some events, and the problems of the others in their places."
    return _responses(
        {
            "200": {
                "description": "The prediction of each event, in their order.",
                **_json(_one_or_list(answer)),
            },
            "207": {
                "description": some,
                **_json({"type": "array", "items": {"anyOf": [answer, failed]}}),
            },
        }
    )


def _responses(responses: Schema) -> Schema:
    problem = "No answer: `detail` says why. After 503, try again after `Retry-After` seconds."
    return {**responses, "default": {"description": problem, **_json(_PROBLEM, "application/problem+json")}}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _one_or_list(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "array", "items": schema}]}


def _json(schema: Schema, media_type: str = "application/json") -> Schema:
    return {"content": {media_type: {"schema": schema}}}


def _header(name: str, description: str) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": _STRING}
