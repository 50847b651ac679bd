"""`POST /predict/<predictor>`: each client gets the predictions and the problems of its own events."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventml.backends.memory import Hub
from tests.web.apps.doubling import Number

if TYPE_CHECKING:
    import httpx

    from eventml import Bus
    from tests.web.conftest import EnterApp

pytestmark = pytest.mark.anyio

PREDICTORS = ["double", "double_one"]


def event(name: str = "n", number: float = 3.0, **fields: Any) -> dict[str, Any]:
    return {"name": name, "number": number, **fields}


@pytest.mark.parametrize("predictor", PREDICTORS)
async def test_a_single_event_gets_one_answer(client: httpx.AsyncClient, predictor: str) -> None:
    answer = await client.post(f"/predict/{predictor}", json=event())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.pop("id").startswith(f"n/{predictor}")
    model = {"model": "doubler", "version": "1"} if predictor == "double" else {}
    assert body == {
        "input": "n",
        "model": None,
        "version": None,
        "prediction": {"name": "n", "twice": 6.0},
        **model,
    }


async def test_a_list_is_answered_in_its_order(client: httpx.AsyncClient) -> None:
    events = [event(str(n), n) for n in range(300)]
    answer = await client.post("/predict/double", json=events)
    assert answer.status_code == 200
    assert [(one["input"], one["prediction"]["twice"]) for one in answer.json()] == [
        (str(n), 2.0 * n) for n in range(300)
    ]


async def test_an_empty_list_is_answered_by_an_empty_list(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predict/double", json=[])
    assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.parametrize("predictor", PREDICTORS)
async def test_a_bad_event_in_a_list_fails_alone(client: httpx.AsyncClient, predictor: str) -> None:
    events = [event("a"), event("b", "three"), event("c", do="reject"), event("d", do="fail"), event("e")]  # type: ignore[arg-type]
    answer = await client.post(f"/predict/{predictor}", json=events)
    results = answer.json()
    assert answer.status_code == 207
    assert [one["input"] for one in results] == list("abcde")
    assert [one.get("error", {}).get("status") for one in results] == [None, 422, 422, 500, None]
    assert results[1]["error"]["path"] == "$.number"
    assert results[2]["error"]["detail"] == "no such ride"
    assert "secret" not in answer.text


@pytest.mark.parametrize("predictor", PREDICTORS)
async def test_a_class_of_rejects_is_a_reject_and_its_cause_is_not_told(
    client: httpx.AsyncClient, predictor: str
) -> None:
    answer = await client.post(f"/predict/{predictor}", json=event(do="no zone"))
    assert (answer.status_code, answer.json()["detail"]) == (422, "no such zone")
    assert "secret" not in answer.text


async def test_the_problem_of_an_event_names_the_field_at_fault(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predict/double", json={"name": "n", "number": "3"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "status": 422,
        "title": "Unprocessable Entity",
        "detail": "Expected `float`, got `str`",
        "path": "$.number",
    }


@pytest.mark.parametrize(
    ("do", "status"),
    [("reject", 422), ("fail", 500), ("false", 500), ("nan", 500), ("away", 503), ("none", 200)],
)
@pytest.mark.parametrize("predictor", PREDICTORS)
async def test_each_failure_has_its_status(
    client: httpx.AsyncClient, do: str, status: int, predictor: str
) -> None:
    answer = await client.post(f"/predict/{predictor}", json=event(do=do))
    assert answer.status_code == status
    assert "secret" not in answer.text
    if status == 503:
        assert int(answer.headers["retry-after"]) >= 1
    if do == "none":
        assert (answer.json()["id"], answer.json()["prediction"]) == (None, None)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "eventml"]


@pytest.mark.parametrize("predictor", PREDICTORS)
async def test_a_failure_is_logged_with_its_id_and_the_handlers_frames_and_no_values(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, predictor: str
) -> None:
    for number in range(5):
        await client.post(f"/predict/{predictor}", json=event(f"r-{number}", 4711.25, do="fail"))
    await client.post(f"/predict/{predictor}", json=event(do="reject"))
    [line] = logged(caplog)
    assert line.startswith(f"{predictor}: 1 event failed: ValueError at tests.web.apps.doubling:")
    assert "; the first is r-0 (" in line
    assert re.search(rf" in {predictor}: return .* > .*doubling:\d+ in doubled: raise ValueError\(", line)
    assert "4711" not in line
    assert "\n" not in line


async def test_failures_of_one_cause_are_counted_in_the_log(
    enter_app: EnterApp, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventml.runtime.failures.failure_log._INTERVAL", 2.0)
    client = await enter_app()
    for number in range(5):
        await client.post("/predict/double", json=event(f"r-{number}", do="away"))
    await asyncio.sleep(2.1)
    await client.post("/predict/double", json=event("r-5", do="away"))
    first, second = logged(caplog)
    assert first.startswith(
        "double: 1 event failed: UnavailableError from ConnectionError at tests.web.apps.doubling:"
    )
    assert second.startswith(
        "double: 5 events failed: UnavailableError from ConnectionError at tests.web.apps.doubling:"
    )
    assert "; the first is r-1 (" in second


async def test_infrastructure_errors_are_not_retried(client: httpx.AsyncClient) -> None:
    """A stream would retry; here the request fails, and the next one is answered."""
    assert (await client.post("/predict/double", json=event(do="away"))).status_code == 503
    assert (await client.post("/predict/double", json=event())).status_code == 200


@pytest.mark.parametrize(
    "body", [b"{", b'{"name": "n", "number": }', b"[1, 2", b"", b"  ", b"\xff\xfe", b"nul"]
)
async def test_malformed_json(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post(
        "/predict/double", content=body, headers={"content-type": "application/json; charset=utf-8"}
    )
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["detail"]


async def test_deeply_nested_json_is_refused(client: httpx.AsyncClient) -> None:
    for body in (b"[" * 100_000, b'{"name":' * 100_000):
        answer = await client.post(
            "/predict/double", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 422)
    assert (await client.post("/predict/double", json=event())).status_code == 200


async def test_a_bare_number_is_answered_as_on_a_stream(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predict/root", json=event("nine", 9))
    assert answer.json()["prediction"] == {"input": "nine", "value": 3.0}


async def test_the_id_is_that_of_the_header_or_of_the_field(client: httpx.AsyncClient, bus: Bus) -> None:
    answer = await client.post("/predict/double", json=event("field"), headers={"ce-id": "header"})
    assert answer.json()["input"] == "header"
    answer = await client.post("/predict/double", json=[event()], headers={"ce-id": "one"})
    assert answer.status_code == 400
    without = [(await client.post("/predict/double", json={"number": 1})).status_code for _ in range(2)]
    assert without == [422, 422]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(
            st.tuples(st.text(max_size=8), st.sampled_from(["", "", "", "reject", "fail", "none", "wrong"])),
            max_size=5,
        ),
        min_size=1,
        max_size=12,
    )
)
def test_concurrent_requests_get_their_own_answers(bus: Bus, requests: list[list[tuple[str, str]]]) -> None:
    """Ids, numbers and problems are those of the own events, in whatever batches they were."""
    from tests.web.conftest import client_of  # noqa: PLC0415 - its module imports this one

    async def main() -> None:
        application = bus.asgi()
        async with application.lifespan(), client_of(application) as client:
            sent = [
                [
                    {"name": f"{r}-{i}-{name}", "number": "x" if do == "wrong" else 100.0 * r + i, "do": do}
                    for i, (name, do) in enumerate(events)
                ]
                for r, events in enumerate(requests)
            ]
            answers = await asyncio.gather(*(client.post("/predict/double", json=one) for one in sent))
        for events, answer in zip(sent, answers, strict=True):
            if answer.status_code == 500:
                assert all(one["do"] == "fail" for one in events)
                continue
            assert [one["input"] for one in answer.json()] == [one["name"] for one in events]
            for one, result in zip(events, answer.json(), strict=True):
                status = {"reject": 422, "wrong": 422, "fail": 500}.get(str(one["do"]))
                assert result.get("error", {}).get("status") == status
                if status is None and one["do"] != "none":
                    assert result["prediction"] == {"name": one["name"], "twice": 2 * one["number"]}

    asyncio.run(main())


async def test_predictions_equal_those_of_a_stream_to_the_last_byte(enter_app: EnterApp, bus: Bus) -> None:
    numbers = [Number(f"n{i}", i / 7 * 1.1) for i in range(200)]
    hub = Hub()
    async with bus.open(hub):
        async with asyncio.TaskGroup() as tasks, bus.worker(["double"]) as worker:
            tasks.create_task(worker.run())
            await worker.ready.wait()
            await bus.publish_many("numbers", numbers)
            await worker.idle(0.02)
            worker.stop()
        streamed: dict[str, bytes] = {}
        async with hub.subscribe(["doubles"], group=None, start="earliest") as reader:
            while len(streamed) < len(numbers):
                streamed |= {d.record.id: d.record.value for d in await reader.receive(1000)}
    client = await enter_app()
    answer = await client.post("/predict/double", content=msgspec.json.encode(numbers), headers=JSON)
    answers = msgspec.json.decode(answer.content, type=list[Answer])
    assert {one.id: bytes(one.prediction) for one in answers} == streamed


JSON = {"content-type": "application/json"}


class Answer(msgspec.Struct):
    id: str
    prediction: msgspec.Raw
