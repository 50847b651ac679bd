"""The ASGI app, by itself and mounted in another app: lifespan, cancellation, metrics, and what it needs."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.web.conftest import client_of, until_in_flight
from tests.web.test_predict import event

if TYPE_CHECKING:
    import httpx

    from eventml import Bus

pytestmark = pytest.mark.anyio


async def test_an_app_that_mounts_it_enters_its_lifespan(bus: Bus) -> None:
    predictions = bus.asgi(only=["double"])
    app = Starlette(routes=[Mount("/ml", predictions)], lifespan=predictions.lifespan)
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert (await client.post("/ml/predict/double", json=event())).status_code == 200
        assert (await client.post("/ml/predict/root", json=event())).status_code == 404
        assert (await client.get("/ml/readyz")).text == "ok\n"
        assert (await client.get("/ml/openapi.json")).json()["servers"] == [{"url": "/ml"}]


async def test_its_root_leads_to_the_page(bus: Bus) -> None:
    predictions = bus.asgi()
    app = Starlette(routes=[Mount("/ml", predictions)], lifespan=predictions.lifespan)
    async with app.router.lifespan_context(app):
        for application, root in ((app, "/ml/"), (predictions, "/")):
            async with client_of(application) as client:
                answer = await client.get(root, headers={"host": "localhost"})
                assert (answer.status_code, answer.headers["location"]) == (307, f"{root}docs")
                followed = await client.get(root, follow_redirects=True)
                assert followed.headers["content-type"].startswith("text/html")


async def test_a_server_enters_its_lifespan(bus: Bus) -> None:
    """As uvicorn does for `bus.asgi()` itself."""
    application = bus.asgi()
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent = []

    async def receive() -> dict[str, str]:
        message = next(messages)
        if message["type"] == "lifespan.shutdown":
            async with client_of(application) as client:
                assert (await client.post("/predict/double", json=event())).status_code == 200
        return message

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    await application({"type": "lifespan", "app": application, "state": {}}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_without_its_lifespan_it_answers_what_to_do(bus: Bus) -> None:
    async with client_of(bus.asgi()) as client:
        answer = await client.post("/predict/double", json=event())
    assert answer.status_code == 503
    assert "lifespan" in answer.json()["detail"]


async def test_its_lifespan_can_be_entered_again(bus: Bus) -> None:
    application = bus.asgi()
    for _ in range(2):
        async with application.lifespan(), client_of(application) as client:
            assert (await client.post("/predict/double", json=event())).status_code == 200


async def test_a_cancelled_request_is_cancelled(bus: Bus) -> None:
    """An app around may have a time limit of its own: it must see its cancellation, and not an answer."""
    application: Any = bus.asgi()
    async with application.lifespan(), client_of(application) as client:
        slow = asyncio.create_task(client.post("/predict/double_one", json=event(number=0.3, do="sleep")))
        await until_in_flight(client, 1)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert application.in_flight == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.post("/predict/double_one", json=event(number=0.3, do="sleep"))
        assert (await client.post("/predict/double_one", json=event())).status_code == 200


@pytest.mark.parametrize("in_flight", [False, True])
async def test_a_cancelled_lifespan_is_cancelled(bus: Bus, in_flight: bool) -> None:
    application: Any = bus.asgi()
    entered = asyncio.Event()

    async def serve() -> None:
        async with application.lifespan(), client_of(application) as client:
            entered.set()
            if in_flight:
                await client.post("/predict/double", json=event(number=0.3, do="sleep"))
            await anyio.sleep_forever()

    serving = asyncio.create_task(serve())
    await entered.wait()
    while in_flight and not application.in_flight:
        await asyncio.sleep(0.005)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert serving.cancelled()
    assert application.worker is None


async def test_metrics_are_those_of_a_stream(client: httpx.AsyncClient) -> None:
    await client.post("/predict/double", json=[event(str(n)) for n in range(7)] + [event(do="reject")])
    text = (await client.get("/metrics")).text
    assert 'eventml_events_completed_total{group="double",handler="double"} 8.0' in text
    assert 'eventml_events_failed_total{group="double",handler="double"} 1.0' in text
    assert 'eventml_events_published_total{group="double",handler="double"} 7.0' in text
    assert 'eventml_dead_letters_total{group="double",handler="double"} 0.0' in text, "there is no such topic"
    assert 'eventml_latency_seconds_count{group="double",handler="double"} 8.0' in text


async def test_paths_and_methods_that_there_are_not(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predict/look", json=event())
    assert answer.status_code == 404
    assert "/predict/double, /predict/double_one, /predict/root" in answer.json()["detail"]
    wrong = await client.get("/predict/double")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.headers["content-type"] == "application/problem+json"
    assert wrong.json() == {"status": 405, "title": "Method Not Allowed", "detail": "use POST"}
    for path in ("/", "/docs", "/livez", "/metrics"):
        wrong = await client.put(path)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
        assert wrong.headers["content-type"] == "application/problem+json"
    assert (await client.get("/nothing")).status_code == 404
    assert (await client.post("/predict/double/", json=event())).status_code == 200


async def test_it_serves_the_asyncapi_document_of_the_whole_bus(client: httpx.AsyncClient) -> None:
    answer = await client.get("/asyncapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    document = answer.json()
    assert document["asyncapi"] == "3.0.0"
    assert {"receive_double", "send_double_doubles", "receive_look"} <= set(document["operations"])
    assert document["components"]["schemas"]["Number"]["required"] == ["name", "number"]
    refused = await client.post("/asyncapi.json", json={})
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/docs/", "/openapi.json/", "/metrics/", "//docs", "/predict", "/docs//"])
async def test_no_answer_names_the_host_of_the_request(bus: Bus, path: str) -> None:
    """As a redirection would, which sends a visitor to another site."""
    application = bus.asgi(authenticate=False)
    async with application.lifespan(), client_of(application) as client:
        answer = await client.get(path, headers={"host": "evil.example"})
    assert answer.status_code in (200, 307, 404)  # for "//docs", the client asks another host for its root
    assert answer.headers.get("location", "/docs") == "/docs"
    assert "evil" not in answer.text + str(answer.headers)


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.0.0", "x", ""])
async def test_metrics_are_in_the_text_format_whatever_is_accepted(
    client: httpx.AsyncClient, accept: str
) -> None:
    answer = await client.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_the_page_loads_its_own_files_only(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert not re.findall("[a-z]+:/|unsafe-eval", policy)
    linked = re.findall(r"(?:src|href)=\"([^\"]*)\"", answer.text)
    assert len(linked) == 4
    for link in linked:
        if link != "data:,":
            file = await client.get(f"/{link}")
            assert (file.status_code, file.headers["content-security-policy"]) == (200, policy)
            assert file.headers["content-type"].startswith("text/")
    assert (await client.get("/docs/LICENSE")).status_code == 404


async def test_the_files_of_the_page_are_compressed_for_who_accepts_it(client: httpx.AsyncClient) -> None:
    path = "/docs/swagger-ui-bundle.js"
    small, large = [await client.get(path, headers={"accept-encoding": one}) for one in ("gzip", "identity")]
    assert small.content == large.content
    assert int(small.headers["content-length"]) < int(large.headers["content-length"]) / 3


async def test_an_answer_says_how_long_its_prediction_took(client: httpx.AsyncClient) -> None:
    for body in (event(), [event(), event("fail")]):
        answer = await client.post("/predict/double", json=body)
        assert re.fullmatch(r"predict;dur=\d+\.\d", answer.headers["server-timing"])


WITHOUT_EXTRA = """
import sys
sys.modules[{missing!r}] = None
from eventml.cli.app import app
from eventml import Bus
{action}
"""


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
@pytest.mark.parametrize(
    ("action", "status"),
    [("app(['run', '--help'])", 0), ("app(['serve', 'doubling:bus'])", 1), ("Bus('b').asgi()", 1)],
)
def test_the_extra_is_needed_by_the_web_service_only(missing: str, action: str, status: int) -> None:
    code = WITHOUT_EXTRA.format(missing=missing, action=action)
    apps = Path(__file__).with_name("apps")
    ended = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-c", code], cwd=apps, capture_output=True, text=True, check=False, timeout=60
    )
    assert bool(ended.returncode) == bool(status)
    assert ("pip install 'eventml[web]'" in ended.stderr) == bool(status)
