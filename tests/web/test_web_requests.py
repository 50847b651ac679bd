"""Limits of requests: each has its status, and a detail that names the setting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventml.deploy.web.http_messages import EventDecoder
from tests.web.conftest import until_in_flight
from tests.web.test_predict import JSON, event

if TYPE_CHECKING:
    import httpx

    from tests.web.conftest import EnterApp

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_body_too_large(enter_app: EnterApp, with_length: bool) -> None:
    client = await enter_app(max_body=1_000)

    async def parts() -> object:
        for _ in range(3):
            yield b" " * 500  # without its length in the header

    content: Any = b" " * 1_500 if with_length else parts()
    answer = await client.post("/predict/double", content=content, headers=JSON)
    assert answer.status_code == 413
    assert "1000 bytes (web.max_body)" in answer.json()["detail"]


async def test_too_many_events(enter_app: EnterApp) -> None:
    client = await enter_app(max_events=3)
    answer = await client.post("/predict/double", json=[event()] * 4)
    assert answer.status_code == 413
    assert (await client.post("/predict/double", json=[event()] * 3)).status_code == 200


@pytest.mark.parametrize(
    "kind",
    [
        *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None, ""),
        *("text/plain; application/json", "text/plain, application/json", "application/json, text/plain"),
        *(
            "application/jsonp",
            "application/json-seq",
            "application/ld+json",
            "text/json",
            "application/json x",
        ),
    ],
)
async def test_other_content_types_are_refused(client: httpx.AsyncClient, kind: str | None) -> None:
    """A page of another site can make the browser of its visitor send these."""
    headers = {"content-type": kind} if kind else {}
    answer = await client.post("/predict/double", content=b"{}", headers=headers)
    assert answer.status_code == 415


async def test_a_body_that_does_not_arrive(enter_app: EnterApp) -> None:
    client = await enter_app(receive_timeout=0.05)

    async def parts() -> object:
        yield b"{"
        await asyncio.sleep(20)

    answer = await client.post("/predict/double", content=parts(), headers=JSON)  # type: ignore[arg-type]
    assert answer.status_code == 408
    assert answer.headers["connection"] == "close"


async def test_a_prediction_that_takes_too_long(enter_app: EnterApp) -> None:
    client = await enter_app(timeout=0.1)
    answer = await client.post("/predict/double_one", json=event(number=0.5, do="sleep"))
    assert answer.status_code == 504
    assert "0.1 s (web.timeout)" in answer.json()["detail"]


async def test_a_call_that_hangs_is_abandoned_and_the_next_is_answered(enter_app: EnterApp) -> None:
    client = await enter_app(timeout=0.2)
    assert (await client.post("/predict/double", json=event(number=1.5, do="sleep"))).status_code == 504
    assert (await client.post("/predict/double", json=event())).status_code == 200


async def test_requests_beyond_the_limit_are_refused_at_once(enter_app: EnterApp) -> None:
    client = await enter_app(max_requests=2)
    slow = [
        asyncio.create_task(client.post("/predict/double", json=event(number=0.5, do="sleep")))
        for _ in range(2)
    ]
    await until_in_flight(client, 2)
    answer = await client.post("/predict/double", json=event())
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert [one.status_code for one in await asyncio.gather(*slow)] == [200, 200]
    assert (await client.post("/predict/double", json=event())).status_code == 200


async def test_a_full_queue_answers_503_and_others_are_answered(enter_app: EnterApp) -> None:
    client = await enter_app(max_waiting=4)
    answer = await client.post("/predict/double", json=[event()] * 5)
    assert answer.status_code == 503
    assert (await client.post("/predict/double", json=[event()] * 4)).status_code == 200


async def test_health_is_answered_while_the_service_is_full(enter_app: EnterApp) -> None:
    client = await enter_app(max_requests=1)
    slow = asyncio.create_task(client.post("/predict/double", json=event(number=0.5, do="sleep")))
    await until_in_flight(client, 1)
    assert [(await client.get(path)).status_code for path in ("/livez", "/readyz")] == [200, 200]
    assert (await slow).status_code == 200


async def test_a_list_of_bad_events_lets_others_run(client: httpx.AsyncClient) -> None:
    """It does not take the event loop for all its events."""
    turns, answered = 0, asyncio.Event()

    async def others() -> None:
        nonlocal turns
        while not answered.is_set():
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(others())
        answer = await client.post("/predict/double", json=[1] * 1_000)
        answered.set()
    assert answer.status_code == 207
    assert turns >= 100  # 50 steps to decode it, and 50 to encode its answer


async def test_lists_take_turns() -> None:
    """However many lists are decoded at once, a turn of the event loop works on some events of one."""
    decoder, steps = EventDecoder(int, None), 0

    def step(number: int) -> None:
        nonlocal steps
        steps += 1

    lists = [asyncio.create_task(decoder.in_turns(step, range(200))) for _ in range(50)]
    while not all(one.done() for one in lists):
        before = steps
        await asyncio.sleep(0)
        assert steps - before <= 20
    assert steps == 50 * 200
