"""`POST /events/<topic>`: the service as a producer, which connects to its broker when it needs to."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventml import Bus, UnavailableError, config
from eventml.backends.memory import Hub
from tests.web.apps.doubling import Number
from tests.web.conftest import client_of
from tests.web.test_predict import event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from eventml import Record

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def publishing(bus: Bus) -> AsyncIterator[tuple[httpx.AsyncClient, Hub]]:
    """A client of the service of a bus that is open on a hub."""
    hub, application = Hub(), bus.asgi()
    async with bus.open(hub), application.lifespan(), client_of(application) as client:
        yield client, hub


async def published(hub: Hub, topic: str, count: int) -> list[Record]:
    found: list[Record] = []
    async with asyncio.timeout(10), hub.subscribe([topic], group=None, start="earliest") as reader:
        while len(found) < count:
            found += [delivery.record for delivery in await reader.receive(100)]
    return found


async def test_an_event_is_published_as_it_was_sent(bus: Bus) -> None:
    async with publishing(bus) as (client, hub):
        sent = event("n-1", more="a field that no handler knows")
        answer = await client.post("/events/numbers", json=sent, headers={"ce-partitionkey": "k"})
        assert (answer.status_code, answer.json()) == (202, {"id": "n-1"})
        [record] = await published(hub, "numbers", 1)
        assert (record.id, record.key, record.value) == ("n-1", b"k", answer.request.content)


async def test_bytes_that_are_no_text_are_refused_in_unknown_fields_too(bus: Bus) -> None:
    async with publishing(bus) as (client, _):
        body = msgspec.json.encode(event("n-1", more="X")).replace(b"X", b"\xff")
        answer = await client.post(
            "/events/numbers", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400
        assert "UTF-8" in answer.json()["detail"]


async def test_a_list_with_a_bad_event_is_not_published(bus: Bus) -> None:
    async with publishing(bus) as (client, hub):
        refused = await client.post("/events/numbers", json=[event("a"), event("b", "x"), event("c")])  # type: ignore[arg-type]
        assert refused.status_code == 422
        assert (refused.json()["index"], refused.json()["path"]) == (1, "$.number")
        answer = await client.post("/events/numbers", json=[event("d"), event("e")])
        assert (answer.status_code, answer.json()) == (202, [{"id": "d"}, {"id": "e"}])
        assert [record.id for record in await published(hub, "numbers", 2)] == ["d", "e"]


async def test_events_without_an_id_get_one(bus: Bus) -> None:
    bus.configure(config.load(environ={}, overrides={"web": {"extra_topics": ["doubles"]}}))
    async with publishing(bus) as (client, hub):
        doubled = {"name": "n", "twice": 2.0}
        made = [(await client.post("/events/doubles", json=doubled)).json()["id"] for _ in range(2)]
        given = await client.post("/events/doubles", json=doubled, headers={"ce-id": "mine"})
        assert len({*made, given.json()["id"]}) == 3
        assert [record.id for record in await published(hub, "doubles", 3)] == [*made, "mine"]


async def test_events_are_published_in_the_format_of_their_topic() -> None:
    bus = Bus("packed")
    bus.topic("numbers", event_type=Number, codec="msgpack")

    @bus.predictor("numbers", to="doubles")
    def double(numbers: list[Number]) -> list[float]:
        return [2 * number.number for number in numbers]

    async with publishing(bus) as (client, hub):
        assert (await client.post("/events/numbers", json=event("n"))).status_code == 202
        [record] = await published(hub, "numbers", 1)
        assert record.headers["content-type"] == "application/msgpack"


def chained() -> Bus:
    """A bus with a topic of each kind."""
    bus = Bus("chained")
    bus.topic("declared", event_type=Number)

    @bus.predictor("numbers", to="doubles")
    def double(numbers: list[Number]) -> list[float]:
        return [2 * number.number for number in numbers]

    @bus.consumer("doubles")
    def look(doubles: list[float]) -> None:
        """A handler that reads what another writes."""

    @bus.consumer("numbers.chained.double.dlq")
    def alarm(letters: list[Number]) -> None:
        """A handler that reads dead letters."""

    @bus.consumer("numbers.other.handler.dlq")
    def alarm_of_others(letters: list[Number]) -> None:
        """A handler that reads the dead letters of another bus."""

    return bus


TOPICS = [
    *("numbers", "doubles", "declared", "unknown"),
    *("numbers.chained.double.dlq", "numbers.other.handler.dlq", "doubles.chained.look.dlq"),
]


@pytest.mark.parametrize("topic", TOPICS)
async def test_topics_are_those_that_handlers_read_and_none_writes(topic: str) -> None:
    async with publishing(chained()) as (client, _):
        answer = await client.post(f"/events/{topic}", json=event("n"))
        assert answer.status_code == (202 if topic == "numbers" else 404)
        assert ("web.extra_topics" in answer.text) == (topic != "numbers")


@pytest.mark.parametrize("topic", TOPICS)
async def test_a_setting_adds_topics(topic: str) -> None:
    bus = chained()
    bus.configure(config.load(environ={}, overrides={"web": {"extra_topics": [topic]}}))
    async with publishing(bus) as (client, hub):
        sent = 2.0 if topic == "doubles" else event("n")
        assert (await client.post(f"/events/{topic}", json=sent)).status_code == 202
        assert len(await published(hub, topic, 1)) == 1
        assert (await client.post("/events/numbers", json=event("m"))).status_code == 202


async def test_an_unknown_topic_is_answered_404(client: httpx.AsyncClient) -> None:
    answer = await client.post("/events/rides", json=event())
    assert answer.status_code == 404
    assert "numbers" in answer.json()["detail"]


async def test_a_bus_in_memory_that_nobody_reads_is_answered_501(client: httpx.AsyncClient) -> None:
    answer = await client.post("/events/numbers", json=event())
    assert answer.status_code == 501
    assert "EVENTML_BACKEND" in answer.json()["detail"]


class UnreachableBroker:
    """A broker that is out of reach until `reachable` is set; it counts the attempts to connect."""

    def __init__(self, bus: Bus, hub: Hub) -> None:
        self.hub, self.attempts, self.reachable = hub, 0, False
        self._open = bus.open

    @asynccontextmanager
    async def open(self, backend: Any = None) -> AsyncIterator[Any]:
        self.attempts += 1
        if not self.reachable:
            raise UnavailableError("the name of a host, which clients must not see")
        async with self._open(self.hub) as bus:
            yield bus


async def test_without_its_broker_the_service_answers_503_and_still_predicts(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = UnreachableBroker(bus, Hub())
    monkeypatch.setattr(bus, "open", broker.open)
    monkeypatch.setattr(
        bus, "_settings", config.load(environ={}, overrides={"backend": "redis://127.0.0.1:1"})
    )
    application = bus.asgi()
    async with application.lifespan(), client_of(application) as client:
        assert (await client.post("/predict/double", json=event())).status_code == 200
        assert broker.attempts == 0  # predictions need no broker
        answer = await client.post("/events/numbers", json=event())
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert "host" not in answer.text
        assert (await client.post("/predict/double", json=event())).status_code == 200
        broker.reachable = True
        posts = (client.post("/events/numbers", json=event(str(n))) for n in range(20))
        assert {one.status_code for one in await asyncio.gather(*posts)} == {202}
        assert broker.attempts == 2
        assert len(await published(broker.hub, "numbers", 20)) == 20
