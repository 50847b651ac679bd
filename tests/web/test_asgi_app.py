"""`Bus.asgi` in an app around it, and what it tells of itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import eventml.deploy.web
from tests.web.conftest import client_of
from tests.web.test_predict import event

if TYPE_CHECKING:
    import httpx

    from eventml import Bus

pytestmark = pytest.mark.anyio


async def test_it_works_mounted_in_an_app_that_enters_its_lifespan(bus: Bus) -> None:
    predictions = bus.asgi(only=["double"])
    app = Starlette(routes=[Mount("/ml", predictions)], lifespan=predictions.lifespan)
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert (await client.post("/ml/predict/double", json=event())).status_code == 200
        assert (await client.post("/ml/predict/root", json=event())).status_code == 404
        assert (await client.get("/ml/readyz")).text == "ok\n"
        assert (await client.get("/ml/openapi.json")).json()["servers"] == [{"url": "/ml"}]


async def test_its_own_lifespan_is_entered_by_a_server(bus: Bus) -> None:
    """As uvicorn does for `bus.asgi()` itself."""
    application = bus.asgi()
    said = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    told = []

    async def receive() -> dict[str, str]:
        message = next(said)
        if message["type"] == "lifespan.shutdown":
            async with client_of(application) as client:
                assert (await client.post("/predict/double", json=event())).status_code == 200
        return message

    async def send(message: dict[str, str]) -> None:
        told.append(message["type"])

    await application({"type": "lifespan", "app": application, "state": {}}, receive, send)
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_one_that_was_not_started_says_so(bus: Bus) -> None:
    async with client_of(bus.asgi()) as client:
        answer = await client.post("/predict/double", json=event())
    assert answer.status_code == 503
    assert "lifespan" in answer.json()["detail"]


async def test_it_can_be_started_again(bus: Bus) -> None:
    application = bus.asgi()
    for _ in range(2):
        async with application.lifespan(), client_of(application) as client:
            assert (await client.post("/predict/double", json=event())).status_code == 200


async def test_metrics_are_a_streams(client: httpx.AsyncClient) -> None:
    await client.post("/predict/double", json=[event(str(n)) for n in range(7)] + [event(do="reject")])
    text = (await client.get("/metrics")).text
    assert 'eventml_events_completed_total{group="double",handler="double"} 8.0' in text
    assert 'eventml_dead_letters_total{group="double",handler="double"} 1.0' in text
    assert 'eventml_latency_seconds_count{group="double",handler="double"} 8.0' in text


async def test_the_page_asks_nobody_but_the_service(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = Path(str(eventml.deploy.web.__file__)).with_name("page.html").read_text("utf-8")
    assert answer.text == page
    assert not re.findall(r"(?:src|href)=|https?://", page)
