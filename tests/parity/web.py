"""Predictions of the web service: rides are sent over HTTP, singly and in lists, by several clients."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx
import msgspec
import uvicorn

from tests.parity.parity_app import bus
from tests.parity.predictions import Predictions, prediction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SIZES: Final = (1, 7, 64, 2, 250)
_CLIENTS: Final = 8


def predict_over_http(rides: Sequence[dict[str, Any]]) -> Predictions:
    """Return the predictions of the bus over HTTP."""
    bus.configure(bus.read_settings({"backend": "memory://web"}))
    return anyio.run(_predict, rides)


async def _predict(rides: Sequence[dict[str, Any]]) -> Predictions:
    predictions: Predictions = {name: {} for name in bus.handlers}
    server = uvicorn.Server(uvicorn.Config(bus.asgi(), host="127.0.0.1", port=0, log_level="warning"))
    async with anyio.create_task_group() as serving:
        serving.start_soon(server.serve)
        while not server.started:
            await anyio.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for predictor in bus.handlers:
                requests = _requests(rides)
                async with anyio.create_task_group() as clients:
                    for _ in range(_CLIENTS):
                        clients.start_soon(_post_all, client, predictor, requests, predictions[predictor])
        server.should_exit = True
    return predictions


def _requests(rides: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """Yield the rides of each request."""
    start = 0
    for size in cycle(_SIZES):
        if start >= len(rides):
            return
        yield rides[start : start + size]
        start += size


async def _post_all(
    client: httpx.AsyncClient,
    predictor: str,
    requests: Iterator[Sequence[dict[str, Any]]],
    predictions: dict[str, Any],
) -> None:
    for rides in requests:
        body = msgspec.json.encode(rides[0] if len(rides) == 1 else rides)
        response = await client.post(
            f"/predict/{predictor}", content=body, headers={"content-type": "application/json"}
        )
        answer = response.json()
        for one in [answer] if len(rides) == 1 else answer:
            if "prediction" in one:
                assert one["input"] not in predictions
                predictions[one["input"]] = prediction(predictor, one["prediction"], one["id"])
