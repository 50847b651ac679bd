"""The way of a web service: rides are sent over HTTP, some alone and some in lists, many at once."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx
import msgspec
import uvicorn

from tests.parity.answers import Answers, answer
from tests.parity.parity_app import bus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SIZES: Final = (1, 7, 64, 2, 250)
_CALLERS: Final = 8


def asked(rides: Sequence[dict[str, Any]]) -> Answers:
    """What the bus answers over HTTP."""
    bus.configure(bus.read_settings({"backend": "memory://asked"}))
    return anyio.run(_asked, rides)


async def _asked(rides: Sequence[dict[str, Any]]) -> Answers:
    answers: Answers = {name: {} for name in bus.handlers}
    server = uvicorn.Server(uvicorn.Config(bus.asgi(), host="127.0.0.1", port=0, log_level="warning"))
    async with anyio.create_task_group() as serving:
        serving.start_soon(server.serve)
        while not server.started:
            await anyio.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for predictor in bus.handlers:
                requests = _requests(rides)
                async with anyio.create_task_group() as callers:
                    for _ in range(_CALLERS):
                        callers.start_soon(_ask, client, predictor, requests, answers[predictor])
        server.should_exit = True
    return answers


def _requests(rides: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """The rides, so many at a time."""
    start = 0
    for size in cycle(_SIZES):
        if start >= len(rides):
            return
        yield rides[start : start + size]
        start += size


async def _ask(
    client: httpx.AsyncClient,
    predictor: str,
    requests: Iterator[Sequence[dict[str, Any]]],
    into: dict[str, Any],
) -> None:
    for rides in requests:
        body = msgspec.json.encode(rides[0] if len(rides) == 1 else rides)
        reply = await client.post(
            f"/predict/{predictor}", content=body, headers={"content-type": "application/json"}
        )
        said = reply.json()
        for one in [said] if len(rides) == 1 else said:
            if "prediction" in one:
                assert one["input"] not in into
                into[one["input"]] = answer(predictor, one["prediction"], one["id"])
