"""The description of the service in OpenAPI 3.1, and the page at `/docs` that shows it.

On the page, Swagger UI shows the description and sends requests. The files in `swagger_ui/` are those of
swagger-ui-dist 5.35.0 on npm, unchanged. The page loads nothing from other hosts, and its policy allows no
inline scripts.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import anyio
from starlette.types import Scope, Send

from eventml.config import WebSettings
from eventml.deploy.web.http_messages import ProblemDetails, header, send_response
from eventml.event_examples import example_of
from eventml.event_types import json_schemas
from eventml.handlers import Handler
from eventml.runtime import answer_type
from eventml.signatures import functions_of

Schema = dict[str, Any]
Responses = dict[str, tuple[str, Schema]]
"""Description and schema of each response, by its status."""

_REFS: Final = "#/components/schemas/{name}"
_PROBLEM: Final = {"$ref": _REFS.format(name=ProblemDetails.__name__)}
_STRING: Final = {"type": "string"}
_STRING_OR_NULL: Final = {"type": ["string", "null"]}
_HEADERS: Final = {
    "ce-id": "Id of the event, if it is a single one.",
    "ce-partitionkey": "Key of the events, percent-encoded: events with the same key keep their order.",
}


def describe(
    bus: str, predictors: Sequence[Handler], topics: Mapping[str, Any], limits: WebSettings, *, token: bool
) -> Schema:
    """Return the OpenAPI document of a service. `token` says whether its clients must send one.

    `topics` are those that can be published to, with the types of their events.
    """
    types = [ProblemDetails, *topics.values()]
    for handler in predictors:
        types += [handler.event_type, answer_type(handler)]
    schema_of, components = json_schemas(types, _REFS)
    paths = {}
    for handler in predictors:
        paths[f"/predict/{handler.name}"] = _post(
            f"predict_{handler.name}",
            f"Predictions of {handler.name}",
            (functions_of(handler.function)[0].__doc__ or "").strip(),  # not that of `partial`
            ["ce-id"],
            _events(schema_of(handler.event_type), components, limits),
            _predictions(schema_of(answer_type(handler))),
        )
    for topic, event_type in topics.items():
        paths[f"/events/{topic}"] = _post(
            f"publish_{topic}",
            f"Publish to {topic}",
            "The broker has the events once this is answered. A list is published if all fit.",
            ["ce-id", "ce-partitionkey"],
            _events(schema_of(event_type), components, limits),
            {"202": ("Published.", _one_or_list(_object(id=_STRING)))},
        )
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


def _events(event: Schema, components: Schema, limits: WebSettings) -> Schema:
    return {"schema": _one_or_list(event, limits.max_events), "example": example_of(event, components)}


def _predictions(prediction: Schema) -> Responses:
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
    every = "The prediction of each event, in their order. `server-timing` has the milliseconds that it took."
    some = "For a list: predictions of some events, and the problems of the others in their places."
    return {
        "200": (every, _one_or_list(answer)),
        "207": (some, {"type": "array", "items": {"anyOf": [answer, failed]}}),
    }


def _post(
    name: str, summary: str, description: str, headers: Sequence[str], body: Schema, responses: Responses
) -> Schema:
    problem = "No answer: `detail` says why. After 503, try again after `Retry-After` seconds."
    described: Schema = {
        status: {"description": text, "content": {"application/json": {"schema": schema}}}
        for status, (text, schema) in responses.items()
    }
    described["default"] = {
        "description": problem,
        "content": {"application/problem+json": {"schema": _PROBLEM}},
    }
    return {
        "post": {
            "operationId": name,
            "tags": ["predictions" if name.startswith("predict_") else "events"],
            "summary": summary,
            "description": description,
            "parameters": [
                {"name": header, "in": "header", "description": _HEADERS[header], "schema": _STRING}
                for header in headers
            ],
            "requestBody": {"required": True, "content": {"application/json": body}},
            "responses": described,
        }
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _one_or_list(schema: Schema, most: int | None = None) -> Schema:
    limit = {} if most is None else {"maxItems": most}
    return {"anyOf": [schema, {"type": "array", "items": schema, **limit}]}


_FOLDER: Final = Path(__file__).parent
_JAVASCRIPT: Final = "text/javascript; charset=utf-8"
_FILES: Final = {
    "/docs": ("docs_page.html", "text/html; charset=utf-8"),
    "/docs/docs_page.js": ("docs_page.js", _JAVASCRIPT),
    "/docs/swagger-ui-bundle.js": ("swagger_ui/swagger-ui-bundle.js", _JAVASCRIPT),
    "/docs/swagger-ui.css": ("swagger_ui/swagger-ui.css", "text/css; charset=utf-8"),
}
PATHS: Final = ("", *_FILES)

# Swagger UI sets styles on its elements, and its icons are data URLs.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def send_page(path: str, scope: Scope, send: Send) -> None:
    """Send the file at a path in `PATHS`; without one, and from `/docs/`, redirect to `/docs`.

    The links of the page are relative, so that it works where it is mounted and behind any proxy.
    """
    if not path or (path == "/docs" and scope["path"].endswith("/")):
        to = {"location": f"{scope.get('root_path', '')}/docs"}
        await send_response(send, HTTPStatus.TEMPORARY_REDIRECT, b"see /docs\n", "text/plain", to)
        return
    name, content_type = _FILES[path]
    headers = {"content-security-policy": POLICY, "vary": "accept-encoding"}
    if compress := "gzip" in (header(scope, b"accept-encoding") or ""):
        headers["content-encoding"] = "gzip"
    body = await anyio.to_thread.run_sync(_read, name, compress)
    await send_response(send, HTTPStatus.OK, body, content_type, headers)


@lru_cache
def _read(name: str, compress: bool) -> bytes:
    body = (_FOLDER / name).read_bytes()
    return gzip.compress(body) if compress else body
