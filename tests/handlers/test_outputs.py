"""What a handler may be given and may return, on every backend and in every deployment."""

from __future__ import annotations

import json
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import anyio
import httpx
import msgspec
import pandas as pd  # noqa: TC002 - the handler's annotation is read
import pytest

from eventml import Bus, Delivery, Output, Record, Reject, config
from eventml.deploy.batch import ScorePlan, parse_location, score
from eventml.errors import ConfigError, RegistrationError
from eventml.testing import TestBus
from tests.failures.scenario import create_topics, publish, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventml.backends.base import Backend
    from tests.failures.scenario import Scenario

pytestmark = pytest.mark.anyio


class Ride(msgspec.Struct):
    number: int


class Scored(msgspec.Struct):
    number: int


class Audit(msgspec.Struct):
    ride: str


def several(ride: Ride, delivery: Delivery) -> list[Scored | Audit | Output] | Reject | None:
    """Two outputs, of two types; every third ride is rejected, every fourth has none."""
    if ride.number % 3 == 0:
        return Reject("divisible by three")
    if ride.number % 4 == 0:
        return None
    return [Scored(ride.number), Output(Audit(delivery.id), key="audits", headers={"x-why": "test"})]


async def read_all(backend: Backend, topics: Sequence[str], count: int) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {topic: [] for topic in topics}
    async with backend.subscribe(topics, group=None, start="earliest") as reader:
        while sum(map(len, found.values())) < count:
            for delivery in await reader.receive(1000):
                found[delivery.record.topic].append(delivery.record)
    return found


async def test_several_outputs_to_several_topics_with_rejects(scenario: Scenario) -> None:
    scored, audit = f"{scenario.topic}.scored", f"{scenario.topic}.audit"
    calls: list[int] = []

    def score_all(rides: list[Ride], deliveries: list[Delivery]) -> list[Any]:
        calls.append(len(rides))
        return list(map(several, rides, deliveries))

    scenario.bus.predictor(
        scenario.topic, to={scored: Scored, audit: Audit}, name="score", carry=["x-request"], retries=5
    )(score_all)
    records = [
        msgspec.structs.replace(record, key=b"k", headers={"x-request": f"r{record.id}", "x-other": "?"})
        for record in scenario.records([Ride(number) for number in range(12)])
    ]
    answered = ["1", "2", "5", "7", "10", "11"]
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            await create_topics(backend, [scored, audit])
            async with scenario.working(backend) as worker:
                await publish(backend, records)
                await until(lambda: worker.stats["score"].completed >= len(records))
                stats = worker.stats["score"]
            found = await read_all(backend, [scored, audit], 12)
            await scenario.collect(backend, 4)
    assert [record.id for record in found[scored]] == [f"{number}/score/1" for number in answered]
    assert [record.id for record in found[audit]] == [f"{number}/score/2" for number in answered]
    assert [json.loads(record.value) for record in found[audit]] == [{"ride": number} for number in answered]
    assert {(r.key, r.headers["ce_type"]) for r in found[scored]} == {(b"k", scored)}
    assert {(r.key, r.headers["ce_type"], r.headers["x-why"]) for r in found[audit]} == {
        (b"audits", audit, "test")
    }
    assert [record.headers["x-request"] for record in found[audit]] == [f"r{number}" for number in answered]
    assert not any("x-other" in record.headers for record in found[scored])
    assert sorted(scenario.dead_letters) == ["0", "3", "6", "9"]
    assert "divisible by three" in scenario.reason(3)
    assert (sum(calls), stats.retries) == (12, 0), "nobody is called again because of a rejected neighbour"


async def test_metadata_of_an_event(scenario: Scenario) -> None:
    seen: list[Delivery] = []

    @scenario.bus.consumer(scenario.topic, name="watch")
    async def watch(ride: Ride, delivery: Delivery) -> None:
        seen.append(delivery)

    [record] = scenario.records([Ride(1)], keys=[b"k"])
    with anyio.fail_after(60):
        async with scenario.connect() as backend, scenario.working(backend) as worker:
            await publish(backend, [msgspec.structs.replace(record, headers={"x-request": "r"})])
            await until(lambda: worker.stats["watch"].completed == 1)
    [one] = seen
    assert (one.id, one.key, one.topic, one.headers["x-request"]) == ("0", b"k", scenario.topic, "r")
    assert (one.attempt, one.partition >= 0) == (1, True)
    assert one.timestamp > 1.7e9


def plain(ride: Ride, about: Delivery) -> Scored | Reject:
    return Scored(len(about.id)) if ride.number else Reject("zero")


async def in_turn(ride: Ride, about: Delivery) -> Scored | Reject:
    return plain(ride, about)


def batches(rides: list[Ride], about: list[Delivery]) -> list[Scored | Reject]:
    return list(map(plain, rides, about))


def batches_of_outputs(rides: list[Ride], about: list[Delivery]) -> list[Output | Reject]:
    return [
        value if isinstance(value := plain(*pair), Reject) else Output(value)
        for pair in zip(rides, about, strict=True)
    ]


def frames(rides: pd.DataFrame, about: list[Delivery]) -> list[Scored | Reject]:
    return [plain(Ride(n), one) for n, one in zip(rides["number"].tolist(), about, strict=True)]


FORMS: list[Callable[..., Any]] = [plain, in_turn, batches, batches_of_outputs, frames]


def app(function: Callable[..., Any]) -> Bus:
    bus = Bus("rides")
    bus.topic("rides", id_field="number")
    register: Callable[..., Any] = bus.predictor
    event_type = {"event_type": Ride} if function is frames else {}
    register("rides", to="scored", name="score", retries=0, **event_type)(function)
    bus.configure(config.load(environ={}, overrides={}))
    return bus


@pytest.mark.parametrize("function", FORMS)
async def test_forms_on_a_stream(function: Callable[..., Any]) -> None:
    async with TestBus(app(function)) as test:
        await test.publish_many("rides", [Ride(100), Ride(0), Ride(20)])
        assert [json.loads(record.value) for record in test.records("scored")] == [
            {"number": 3},
            {"number": 2},
        ]
        [letter] = test.dead_letters()
    assert "zero" in letter.reason


@pytest.mark.parametrize("function", FORMS)
async def test_forms_over_http(function: Callable[..., Any]) -> None:
    application = app(function).asgi(authenticate=False)
    async with (
        application.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://127.0.0.1") as client,
    ):
        answer = await client.post("/predict/score", json=[{"number": 100}, {"number": 0}])
    first, second = answer.json()
    assert (first["prediction"], second["error"]["detail"]) == ({"number": 3}, "zero")


@pytest.mark.parametrize("function", FORMS)
def test_forms_as_a_job(
    function: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rides.jsonl").write_text('{"number": 100}\n{"number": 0}\n{"number": 20}\n')
    anyio.run(run_job, app(function))
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [(str(row["id"]), row["number"]) for row in written] == [("100", 3), ("20", 2)]
    [reject] = [json.loads(line) for line in Path("out.jsonl.rejects.jsonl").read_text().splitlines()]
    assert (str(reject["id"]), reject["exception"], reject["message"]) == ("0", "Reject", "zero")


async def run_job(bus: Bus) -> None:
    source, target = (
        parse_location("rides.jsonl", option="--from"),
        parse_location("out.jsonl", option="--to"),
    )
    await score(bus, ScorePlan(predictor="score", source=source, target=target))


async def test_a_list_of_outputs_over_http_and_not_as_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await anyio.Path("rides.jsonl").write_text('{"number": 1}\n')
    bus = app(several)
    application = bus.asgi(authenticate=False)
    transport = httpx.ASGITransport(application)
    async with (
        application.lifespan(),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        answers = [
            (await client.post("/predict/score", json={"number": number})).json() for number in (1, 4, 3)
        ]
        schema = (await client.get("/openapi.json")).json()
    assert answers[0]["prediction"] == [{"number": 1}, {"ride": "1"}]
    assert (answers[0]["id"], answers[1]["prediction"], answers[2]["status"]) == ("1/score", [], 422)
    assert '"array"' in json.dumps(schema["paths"]["/predict/score"])
    with pytest.raises(ConfigError, match="one prediction for each row"):
        await run_job(bus)


async def test_a_request_is_answered_with_all_outputs(scenario: Scenario) -> None:
    scenario.bus.predictor(scenario.topic, to=scenario.to, name="score")(several)
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            await create_topics(backend, [f"{scenario.topic}.replies"])
            async with scenario.working(backend):
                answer = await scenario.bus.request(scenario.topic, Ride(1))
                none = await scenario.bus.request(scenario.topic, Ride(4))
    assert [one.get("number", "ride") for one in answer] == [1, "ride"]
    assert none == []


async def test_a_list_of_numbers_is_one_output_and_an_unannotated_list_is_several() -> None:
    bus = Bus("rides")

    @bus.predictor("rides", to="rows", retries=0)
    def rows(rides: list[Ride]) -> list[list[float]]:
        return [[1.0, 2.0] for _ in rides]

    @bus.predictor("rides", to="unannotated")
    def unannotated(ride: Ride):  # type: ignore[no-untyped-def]  # noqa: ANN202 - that is the case
        return [Scored(1), Scored(2)] if ride.number else []

    async with TestBus(bus) as test:
        await test.publish_many("rides", [Ride(1), Ride(0)])
        assert [record.id.partition("/")[2] for record in test.records("unannotated")] == [
            "unannotated/1",
            "unannotated/2",
        ]
        assert [json.loads(record.value)["value"] for record in test.records("rows")] == [[1.0, 2.0]] * 2


async def test_an_output_that_does_not_fit_costs_its_event() -> None:
    bus = Bus("rides")
    outputs: dict[int, Any] = {
        1: Ride(1),
        2: Output(Scored(2), topic="elsewhere"),
        3: Output(Scored(3), headers={"ce_type": "mine"}),
        4: Scored(4),
        5: Output(Audit("5"), topic="audit"),
    }

    @bus.predictor("rides", to={"scored": Scored, "audit": Audit, "audit.copy": Audit}, retries=0)
    def check(rides: list[Ride]) -> list[Any]:
        return [outputs[ride.number] for ride in rides]

    async with TestBus(bus) as test:
        await test.publish_many("rides", list(map(Ride, range(1, 6))))
        reasons = [letter.reason for letter in test.dead_letters()]
        assert len(test.records("scored")) == len(test.records("audit")) == 1
    assert "returned a Ride where its annotation says Scored or Audit" in reasons[0]
    assert "'elsewhere', which is not in its to=" in reasons[1]
    assert "'ce_type' is written by the library" in reasons[2]


async def test_a_consumer_rejects_rows_too() -> None:
    bus, seen = Bus("rides"), list[int]()

    @bus.consumer("rides")
    def batches_of_rides(rides: list[Ride]) -> list[Reject | None]:
        seen.extend(ride.number for ride in rides)
        return [None if ride.number else Reject("zero") for ride in rides]

    @bus.consumer("rides")
    async def one_ride(ride: Ride) -> Reject | None:
        return None if ride.number else Reject("zero")

    async with TestBus(bus) as test:
        await test.publish_many("rides", [Ride(1), Ride(0), Ride(2)])
        assert [letter.handler for letter in test.dead_letters()] == ["batches_of_rides", "one_ride"]
    assert seen == [1, 0, 2], "nobody was called again"


class Typed(TypedDict):
    number: int


def first_delivery(delivery: Delivery) -> None: ...
def second_record(ride: Ride, record: Record) -> None: ...
def one_for_a_batch(rides: list[Ride], delivery: Delivery) -> None: ...
def many_for_one(ride: Ride, deliveries: list[Delivery]) -> None: ...
def twice(ride: Ride, one: Delivery, other: Delivery) -> None: ...
def single(ride: Ride) -> Scored: ...  # type: ignore[empty-body]
def batch(rides: list[Ride]) -> list[Scored]: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (first_delivery, {}, "the first parameter, 'delivery', takes the event; .* delivery: Delivery"),
        (second_record, {}, "'record' cannot be filled; one parameter may be annotated Delivery"),
        (one_for_a_batch, {}, r"'delivery' cannot be filled; .* annotated list\[Delivery\]"),
        (many_for_one, {}, "'deliveries' cannot be filled"),
        (twice, {}, "'other' cannot be filled"),
        (single, {"to": ["a", "b"]}, r"to=\['a', 'b'\] is not possible; it is the name of a topic, or"),
        (single, {"to": ""}, "to='' is not possible"),
        (single, {"to": {}}, "is not possible"),
        (
            single,
            {"to": {"a": Audit}},
            "may return a Scored, .* no topic; it has 'a' for Audit",
        ),
        (single, {"to": {"a": Typed}}, "told apart by class"),
        (single, {"to": {"a": float}}, "told apart by class"),
        (single, {"to": {"a": Scored}, "output_type": Scored}, "remove output_type"),
        (single, {"to": "a", "carry": ["ce_id"]}, "carry: the library writes the header 'ce_id' itself"),
        (single, {"to": "a", "concurrency": 0}, "concurrency: expected `int` >= 1"),
        (batch, {"to": "a", "concurrency": 2}, "concurrency: it is for handlers of single events"),
    ],
)
def test_what_is_refused_at_registration(
    function: Callable[..., Any], arguments: dict[str, Any], message: str
) -> None:
    bus = Bus("rides")
    with pytest.raises(RegistrationError, match=message):
        (bus.predictor if "to" in arguments else bus.consumer)("rides", **arguments)(function)


unfinished: list[Any] = []


def unfinished_coroutine(ride: Ride) -> Any:
    async def work() -> None:
        pass

    unfinished.append(work())
    return unfinished[-1]


def unfinished_generator(rides: list[Ride]) -> Any:
    return (ride for ride in rides)


def one_reject(rides: list[Ride]) -> Any:
    return Reject("all of them")


def tuple_of_rejects(rides: list[Ride]) -> Any:
    return tuple(Reject("each") for _ in rides)


@pytest.mark.parametrize(
    "function", [unfinished_coroutine, unfinished_generator, one_reject, tuple_of_rejects]
)
async def test_a_consumer_that_did_not_do_its_work_has_not_handled_its_event(function: Any) -> None:
    bus = Bus("rides")
    bus.consumer("rides.started", name="store", retries=0)(function)
    async with TestBus(bus) as test:
        await test.publish_many("rides.started", map(Ride, range(5)))
        assert len(test.dead_letters("store")) == 5
    while unfinished:
        unfinished.pop().close()


async def test_a_coroutine_around_a_plain_function_is_awaited() -> None:
    stored: list[int] = []
    bus = Bus("rides")

    def plain(ride: Ride) -> None:
        stored.append(ride.number)

    @bus.consumer("rides.started")
    @wraps(plain)
    async def store(*args: Any) -> None:
        plain(*args)

    async with TestBus(bus) as test:
        await test.publish_many("rides.started", map(Ride, range(5)))
    assert stored == list(range(5))


class PanicError(BaseException):
    """What an extension in Rust raises."""


def panics(ride: Ride) -> None:
    if ride.number == 3:
        raise PanicError("a bug")


async def panics_in_a_group(ride: Ride) -> None:
    if ride.number == 3:
        raise BaseExceptionGroup("", [SystemExit(1)])


def panics_in_a_batch(rides: list[Ride]) -> None:
    list(map(panics, rides))


@pytest.mark.parametrize("function", [panics, panics_in_a_group, panics_in_a_batch])
async def test_an_exception_of_any_kind_costs_its_event(function: Any) -> None:
    bus = Bus("rides")
    bus.consumer("rides.started", name="store", retries=0)(function)
    async with TestBus(bus) as test:
        await test.publish_many("rides.started", map(Ride, range(5)))
        [letter] = test.dead_letters("store")
    assert (msgspec.json.decode(letter.record.value), letter.exception) == ({"number": 3}, "HandlerExitError")
