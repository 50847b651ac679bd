"""Sending what a caller is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from eventml.deploy.web.problems import CONTENT_TYPE, Problem

if TYPE_CHECKING:
    from http import HTTPStatus

    from starlette.types import Send

_JSON: Final = (b"content-type", b"application/json")

encode = msgspec.json.Encoder().encode


async def send_json(send: Send, status: HTTPStatus, body: bytes) -> None:
    """Send JSON that is encoded already."""
    await send(
        {
            "type": "http.response.start",
            "status": status.value,
            "headers": [_JSON, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def send_problem(send: Send, problem: Problem) -> None:
    body = encode(problem.details)
    headers = [
        (b"content-type", CONTENT_TYPE),
        (b"content-length", b"%d" % len(body)),
        *((name.encode(), value.encode("latin-1")) for name, value in problem.headers.items()),
    ]
    await send({"type": "http.response.start", "status": problem.details.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
