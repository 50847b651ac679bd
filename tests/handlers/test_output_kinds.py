"""What is one output and what are several, which outputs are possible, and who gets them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import msgspec
import pytest

from eventml import Bus, Output, Record, Reject, config
from eventml.deploy.batch import ScorePlan, parse_location, score
from eventml.errors import ConfigError
from eventml.handlers import Handler
from eventml.records import Delivery
from eventml.runtime import are_values
from eventml.runtime.calls.outputs import Outputs
from eventml.runtime.failures.classification import Failed, contains_rejects
from eventml.testing import TestBus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio


class Ride(msgspec.Struct):
    number: int


class Scored(msgspec.Struct):
    number: int


class Corrected(Scored):
    why: str = ""


class Audit(msgspec.Struct):
    ride: str


class NoZoneError(Reject):
    pass


def app(function: Callable[..., Any], to: Any = "scored", **arguments: Any) -> Bus:
    bus = Bus("rides")
    bus.topic("rides", id_field="number")
    register: Callable[..., Any] = bus.predictor
    register("rides", to=to, name="score", retries=0, **arguments)(function)
    bus.configure(config.load(environ={}, overrides={}))
    return bus


async def stream(bus: Bus, rides: Sequence[Ride], topic: str = "scored") -> tuple[list[Any], list[str]]:
    """The ids and values of the outputs of a stream, and the reasons of its dead letters."""
    async with TestBus(bus) as test:
        await test.publish_many("rides", rides)
        found = [(record.id, json.loads(record.value)) for record in test.records(topic)]
        return found, [letter.reason for letter in test.dead_letters()]


async def ask(bus: Bus, event: dict[str, Any]) -> Any:
    application = bus.asgi(authenticate=False)
    transport = httpx.ASGITransport(application)
    async with (
        application.lifespan(),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        return (await client.post("/predict/score", json=event)).json()


async def job(bus: Bus, rows: int) -> tuple[list[Any], list[Any]]:
    """The rows that a job writes in the current folder, and those that it rejects."""
    await anyio.Path("rides.jsonl").write_text("".join(f'{{"number": {n}}}\n' for n in range(1, rows + 1)))
    source, target = parse_location("rides.jsonl", option="--from"), parse_location("o.jsonl", option="--to")
    await score(bus, ScorePlan(predictor="score", source=source, target=target))
    written, rejects = anyio.Path("o.jsonl"), anyio.Path("o.rejects.jsonl")
    texts = [await path.read_text() if await path.exists() else "" for path in (written, rejects)]
    found, rejected = [[json.loads(line) for line in text.splitlines()] for text in texts]
    return found, rejected


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


IMPOSSIBLE: list[tuple[Output, str]] = [
    (Output(Scored(1), key=5), "key is text or bytes, not 5"),  # type: ignore[arg-type]
    (Output(Scored(1), key="\ud800"), "key is text or bytes"),
    (Output(Scored(1), headers={"x": 5}), "headers are texts by name"),  # type: ignore[dict-item]
    (Output(Scored(1), headers=None), "headers are texts by name"),  # type: ignore[arg-type]
    (Output(Scored(1), headers={"ce_id": "1"}), "'ce_id' is written by the library"),
    (Output(Scored(1), topic="nope"), "'nope', which is not in its to="),
    (Output(Scored(1), topic=["scored"]), "which is not in its to="),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("output", "message"), IMPOSSIBLE)
async def test_an_impossible_output_fails_its_event_alone(output: Output, message: str, folder: None) -> None:
    def one(ride: Ride) -> Scored | Output:
        return output if ride.number == 2 else Scored(ride.number)

    def batch(rides: list[Ride]) -> list[Scored | Output]:
        return list(map(one, rides))

    for function in (one, batch):
        found, reasons = await stream(app(function), [Ride(1), Ride(2), Ride(3)])
        assert [value["number"] for _, value in found] == [1, 3]
        [reason] = reasons
        assert message in reason
    written, [reject] = await job(app(batch), 3)
    assert [row["number"] for row in written] == [1, 3]
    assert (reject["exception"].rpartition(".")[2], message in reject["message"]) == ("OutputError", True)


async def test_subclasses_of_reject_are_rejects(folder: None) -> None:
    calls = []

    def batch(rides: list[Ride]) -> list[Scored | Reject]:
        calls.append(len(rides))
        return [NoZoneError("no zone") if ride.number == 2 else Scored(ride.number) for ride in rides]

    found, [reason] = await stream(app(batch), [Ride(1), Ride(2), Ride(3)])
    assert ([value["number"] for _, value in found], "no zone" in reason) == ([1, 3], True)
    written, [reject] = await job(app(batch), 3)
    assert ([row["number"] for row in written], "no zone" in reject["message"]) == ([1, 3], True)
    assert sum(calls) == 6, "nobody is called again"
    assert contains_rejects([None, NoZoneError("")])
    assert not contains_rejects([None, Reject])


async def test_a_reply_has_the_type_of_its_topic() -> None:
    bus = Bus("rides")

    @bus.predictor("rides", to={"scored": Scored, "audit": Audit}, name="score")
    def decide(ride: Ride):  # type: ignore[no-untyped-def]  # noqa: ANN202 - that is the case
        values: list[Any] = [Scored(1), Audit("a")]
        return {1: values[0], 2: values[1], 3: values, 4: values[:1]}.get(ride.number)

    async with TestBus(bus):
        answers = [await bus.request("rides", Ride(number)) for number in range(1, 6)]
    assert answers == [Scored(1), Audit("a"), [{"number": 1}, {"ride": "a"}], [Scored(1)], None]


async def test_a_reply_of_several_outputs_has_the_declared_type() -> None:
    bus = Bus("rides")
    bus.topic("scored", event_type=Corrected)

    @bus.predictor("rides", to="scored")
    def decide(ride: Ride) -> list[Scored]:
        return [Corrected(ride.number, "declared")]

    async with TestBus(bus):
        assert await bus.request("rides", Ride(1)) == [Corrected(1, "declared")]


async def test_a_job_refuses_several_topics(folder: None) -> None:
    def one(ride: Ride) -> Scored | Audit:
        return Scored(ride.number)

    with pytest.raises(ConfigError, match=r"several topics, .* one of them: scored, audit"):
        await job(app(one, to={"scored": Scored, "audit": Audit}), 1)


def of_sequence(ride: Ride) -> Sequence[Scored]:
    return (Scored(1), Scored(2))


def of_list_or_one(ride: Ride) -> list[Scored] | Scored:
    return [Scored(1), Scored(2)]


def of_nothing(ride: Ride):  # type: ignore[no-untyped-def]  # noqa: ANN201 - that is the case
    return [Scored(1), Scored(2)]


def of_batches(rides: list[Ride]) -> Sequence[Sequence[Scored]]:
    return [[Scored(1), Scored(2)] for _ in rides]


def of_unannotated_batches(rides: list[Ride]):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return [[Scored(1), Scored(2)] for _ in rides]


@pytest.mark.parametrize(
    "function", [of_sequence, of_list_or_one, of_nothing, of_batches, of_unannotated_batches]
)
async def test_lists_of_outputs(function: Callable[..., Any], folder: None) -> None:
    expected = [{"number": 1}, {"number": 2}]
    found, _ = await stream(app(function), [Ride(7)])
    assert found == [("7/score/1", expected[0]), ("7/score/2", expected[1])]
    assert (await ask(app(function), {"number": 7}))["prediction"] == expected
    try:
        written, rejects = await job(app(function), 1)
    except ConfigError:
        return
    assert (written, "a list of outputs" in rejects[0]["message"]) == ([], True)


async def test_an_output_type_that_is_a_list_is_one_output(folder: None) -> None:
    def texts(ride: Ride) -> list[str]:
        return ["a", "b"]

    found, _ = await stream(app(texts, output_type=list[str]), [Ride(1)])
    assert found == [("1/score", {"input": "1", "value": ["a", "b"]})]
    written, _ = await job(app(texts, output_type=list[str]), 1)
    assert json.loads(written[0]["value"]) == ["a", "b"]


@pytest.mark.parametrize("nothing", [Output(None), [], None])
async def test_no_output_anywhere(nothing: Any, folder: None) -> None:
    def unannotated(rides: list[Ride]):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return [nothing for _ in rides]

    assert await stream(app(unannotated), [Ride(1)]) == ([], [])
    assert (await ask(app(unannotated), {"number": 1}))["prediction"] is None
    assert await job(app(unannotated), 1) == ([], [])


@pytest.mark.parametrize("row", [[1.0, Scored(2)], Output([Scored(1)]), Output([1.0, [{"number": 1}]])])
async def test_a_row_of_objects_is_refused(row: Any) -> None:
    def unannotated(rides: list[Ride]):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return [[1.0, 2.0] if ride.number == 1 else row for ride in rides]

    def annotated(rides: list[Ride]) -> list[list[float]]:
        return [[1.0, 2.0] if ride.number == 1 else [Scored(1)] for ride in rides]  # type: ignore[list-item]

    for function in (unannotated, annotated):
        found, [reason] = await stream(app(function), [Ride(1), Ride(2)])
        assert ([value["value"] for _, value in found], "has an object where" in reason) == (
            [[1.0, 2.0]],
            True,
        )


async def test_the_nearest_class_decides_the_topic() -> None:
    class Later(Corrected):
        pass

    outputs = {1: Scored(1), 2: Corrected(2), 3: Later(3)}

    def one(ride: Ride) -> Scored | Corrected:
        return outputs[ride.number]

    async with TestBus(app(one, to={"a": Scored, "b": Corrected})) as test:
        await test.publish_many("rides", [Ride(1), Ride(2), Ride(3)])
        assert [record.id for record in test.records("a")] == ["1/score"]
        assert [record.id for record in test.records("b")] == ["2/score", "3/score"]


@pytest.mark.parametrize("count", [1, 2])
async def test_an_unannotated_list_is_answered_with_a_list(count: int) -> None:
    def unannotated(ride: Ride):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return [Scored(ride.number)] * count if ride.number else Scored(0)

    many = await ask(app(unannotated), {"number": 5})
    assert (many["id"], many["prediction"]) == ("5/score", [{"number": 5}] * count)
    assert (await ask(app(unannotated), {"number": 0}))["prediction"] == {"number": 0}


def handler_of(function: Callable[..., Any], **arguments: Any) -> Handler:
    return app(function, **arguments).configured_handler("score")


def test_outputs_share_carried_headers_and_the_own_ones_win() -> None:
    def batch(rides: list[Ride]) -> list[Scored]:
        raise NotImplementedError

    outputs = Outputs(handler_of(batch, carry=["x-a", "ce_traceparent"]), {}, model=None, source="rides")

    class Traced:
        def output_headers(self, headers: Any, inputs: Sequence[Any]) -> list[Any]:
            return [{**headers, "ce_traceparent": "own"}] * len(inputs)

    shared, none = {"x-a": "1", "ce_traceparent": "input"}, {"x-b": "2"}
    deliveries = [
        Delivery(Record("rides", b"", id=str(n), headers=headers), 0, n, 0.0)
        for n, headers in enumerate([shared, shared, none, none])
    ]
    made = outputs.completions(deliveries, [Scored(n) for n in range(4)])
    headers = [one.outputs[0].headers for one in made if not isinstance(one, Failed)]
    assert headers[0] is headers[1]
    assert headers[2] is headers[3]
    assert headers[0]["x-a"] == "1"
    outputs._tracing = Traced()  # type: ignore[assignment]
    [one] = outputs.completions(deliveries[:1], [Scored(1)])
    assert not isinstance(one, Failed)
    assert one.outputs[0].headers["ce_traceparent"] == "own"


def test_rows_of_an_array_are_not_looked_at() -> None:
    def unannotated(rides: list[Ride]):  # type: ignore[no-untyped-def]  # noqa: ANN202
        raise NotImplementedError

    class Row(list[float]):
        def __iter__(self) -> Any:
            raise AssertionError("looked at")

    assert are_values(handler_of(unannotated), [Row([1.0])], rows=True)
