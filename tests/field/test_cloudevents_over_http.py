"""A client posted the CloudEvents key "Zürich", and its events went to another partition than others."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import msgspec
import pytest

from eventml import Bus
from eventml.backends.memory import Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml import Record

pytestmark = pytest.mark.anyio

JSON = [(b"content-type", b"application/json")]


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[httpx.AsyncClient, Hub]]:
    bus, hub = Bus("shop"), Hub()

    @bus.predictor("rides", to="durations")
    def duration(ride: dict[str, Any]) -> float:
        return float(ride["km"])

    application = bus.asgi()
    async with bus.open(hub), application.lifespan():
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client, hub


async def only_record(hub: Hub) -> Record:
    async with asyncio.timeout(10), hub.subscribe(["rides"], group=None, start="earliest") as reader:
        [delivery] = await reader.receive(10)
    return delivery.record


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("Zürich".encode(), "Zürich"),
        ("Zürich".encode("latin-1"), "Zürich"),
        (b"Z%C3%BCrich", "Zürich"),
        (b"Z%c3%bcrich", "Zürich"),
        (b"%5a%C3%BCrich", "Zürich"),  # encoded without need
        (b'"Z\xc3\xbcrich \\"Nord\\""', 'Zürich "Nord"'),  # quoted, as older senders do
        (b"Z%C3%BCrich%20%22Nord%22", 'Zürich "Nord"'),
        (b"100%25", "100%"),
        (b"100%", "100%"),
        (b"%2541", "%41"),  # decoded once
        (quote("東京 🚕").encode(), "東京 🚕"),
    ],
)
async def test_an_attribute_means_the_same_in_every_encoding(sent: bytes, meant: str) -> None:
    names = (b"ce-id", b"ce-source", b"ce-type", b"ce-subject", b"ce-partitionkey")
    async with serving() as (client, hub):
        answer = await client.post(
            "/events/rides", json={"km": 3}, headers=[*JSON, *((name, sent) for name in names)]
        )
        assert (answer.status_code, answer.json()) == (202, {"id": meant})
        record = await only_record(hub)
        answer = await client.post("/predict/duration", json={"km": 3}, headers=[*JSON, (b"ce-id", sent)])
        assert (answer.status_code, answer.json()["input"]) == (200, meant)
    assert (record.id, record.key) == (meant, meant.encode())
    assert [record.headers[name] for name in ("ce_source", "ce_type", "ce_subject")] == [meant] * 3
    assert record.headers["ce_specversion"] == "1.0"


async def test_without_attributes_an_event_has_those_of_the_bus() -> None:
    async with serving() as (client, hub):
        await client.post("/events/rides", json={"km": 3}, headers={"ce-partitionkey": " ", "ce-type": ""})
        record = await only_record(hub)
    assert record.key is None
    assert (record.headers["ce_source"], record.headers["ce_type"]) == ("shop", "rides")


@pytest.mark.parametrize("sent", [b"Z%FCrich", b"%C0%A0"])
async def test_percent_encoding_that_is_not_utf8_is_refused(sent: bytes) -> None:
    async with serving() as (client, _):
        for path in ("/events/rides", "/predict/duration"):
            answer = await client.post(path, json={"km": 3}, headers=[*JSON, (b"ce-partitionkey", sent)])
            assert answer.status_code == 400
            assert "UTF-8" in answer.json()["detail"]


STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}
ENVELOPE = {
    "specversion": "1.0",
    "id": "100% Zürich",
    "source": "/fleet",
    "type": "ride",
    "partitionkey": "Zürich",
    "sequence": 7,
    "sampled": True,
    "dataschema": None,
    "datacontenttype": "application/json",
    "data": {"km": 3},
}


async def test_a_structured_event_is_published_with_its_attributes() -> None:
    async with serving() as (client, hub):
        answer = await client.post(
            "/events/rides", content=msgspec.json.encode(ENVELOPE), headers={**STRUCTURED, "ce-id": "other"}
        )
        assert (answer.status_code, answer.json()) == (202, {"id": "100% Zürich"})
        record = await only_record(hub)
    assert (record.id, record.key, record.value) == ("100% Zürich", "Zürich".encode(), b'{"km":3}')
    assert {name: text for name, text in record.headers.items() if name.startswith("ce_")} == {
        "ce_specversion": "1.0",
        "ce_source": "/fleet",
        "ce_type": "ride",
        "ce_sequence": "7",
        "ce_sampled": "true",
    }


async def test_a_structured_event_is_predicted() -> None:
    async with serving() as (client, _):
        answer = await client.post(
            "/predict/duration", content=msgspec.json.encode(ENVELOPE), headers=STRUCTURED
        )
    assert (answer.status_code, answer.json()["input"]) == (200, "100% Zürich")
    assert answer.json()["prediction"]["value"] == 3.0


@pytest.mark.parametrize(
    "body", ["[]", "7", '{"id": }', '{"id": "\\ud800", "data": {}}', '{"id": "1", "data": ']
)
async def test_a_malformed_structured_event_is_refused(body: str) -> None:
    async with serving() as (client, _):
        answer = await client.post("/events/rides", content=body, headers=STRUCTURED)
    assert answer.status_code == 400


async def test_a_structured_event_without_data_does_not_fit_its_type() -> None:
    async with serving() as (client, _):
        answer = await client.post("/events/rides", content='{"id": "1"}', headers=STRUCTURED)
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "name", ["", "a\r\nb", "CE_ID", "eventml-reply-to", "data_base64", "\u00e9", "\u0661", "a\n"]
)
async def test_names_that_are_none_of_an_attribute_are_refused(name: str) -> None:
    """They would be headers of the record, or keys beside it."""
    async with serving() as (client, _):
        body = msgspec.json.encode({**ENVELOPE, name: "x"})
        answer = await client.post("/events/rides", content=body, headers=STRUCTURED)
        assert (answer.status_code, "a-z and 0-9" in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize("name", [b"ce-", b"ce-eventml-replay-group", b"ce-a_b"])
async def test_headers_that_are_no_attribute_are_refused(name: bytes) -> None:
    async with serving() as (client, _):
        for path in ("/events/rides", "/predict/duration"):
            answer = await client.post(path, json={"km": 3}, headers=[*JSON, (name, b"x")])
            assert (answer.status_code, "a-z and 0-9" in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize("value", [{"a": 1}, [1]])
async def test_an_attribute_is_a_plain_value(value: Any) -> None:
    async with serving() as (client, _):
        body = msgspec.json.encode({**ENVELOPE, "partitionkey": value})
        answer = await client.post("/events/rides", content=body, headers=STRUCTURED)
    assert answer.status_code == 400
    assert "Expected `str`" in answer.json()["detail"]


@pytest.mark.parametrize(
    "attributes",
    [{f"a{n}": 1 for n in range(101)}, {"a": "x" * 66_000}, {"id": "x" * 66_000}, {"a" * 66_000: 1}],
    ids=["many", "value", "id", "name"],
)
async def test_attributes_in_a_body_are_limited_as_headers_are(attributes: dict[str, Any]) -> None:
    async with serving() as (client, _):
        body = msgspec.json.encode({"data": {"km": 3}, **attributes})
        answer = await client.post("/events/rides", content=body, headers=STRUCTURED)
        assert answer.status_code == 431
        large = msgspec.json.encode({**ENVELOPE, "data": {"km": 3, "note": "x" * 66_000}})
        assert (await client.post("/predict/duration", content=large, headers=STRUCTURED)).status_code == 200
