"""The OpenAPI document holds: every request that it allows gets a response that it describes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi import checks

from eventml.backends.memory import Hub
from tests.web.apps import times
from tests.web.conftest import client_of

if TYPE_CHECKING:
    import httpx

    from eventml import Bus

pytestmark = pytest.mark.anyio


async def test_it_describes_the_types_of_events_and_predictions(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    assert document["info"]["title"] == "doubling"
    assert set(document["paths"]) == {
        *("/predict/double", "/predict/double_one", "/predict/root"),
        "/events/numbers",
    }
    assert document["paths"]["/predict/double"]["post"]["description"] == "Doubles numbers."
    number = document["components"]["schemas"]["Number"]
    assert number["required"] == ["name", "number"]
    assert number["properties"]["number"] == {"type": "number"}


async def test_times_have_a_format() -> None:
    application = times.bus.asgi()
    async with application.lifespan(), client_of(application) as client:
        document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    time = {"type": "string", "format": "date-time"}
    ride, trip = schemas["Ride"]["properties"], document["paths"]["/predict/trip"]["post"]["requestBody"]
    trip = trip["content"]["application/json"]["schema"]["anyOf"][0]["properties"]
    for properties in (ride, trip, schemas["Stop"]["properties"]):
        for name in properties.keys() & {"pickup", "aware", "at"}:
            assert properties[name].items() >= time.items()
    assert ride["dropoff"]["anyOf"][0] == trip["dropoff"]["anyOf"][0] == time
    assert ride["by_name"]["additionalProperties"] == trip["stops"]["items"] == time
    assert ride["pair"]["prefixItems"][1] == schemas["Start"]["prefixItems"][1] == time
    assert (ride["clock"]["format"], trip["clock"]["format"]) == ("time", "time")
    assert "format" not in ride["naive"], "a time that may have no offset is no date-time of JSON Schema"


async def test_a_partial_is_described_by_its_function(bus: Bus) -> None:
    def scaled(factor: float, number: float) -> float:
        """Scales numbers."""
        return factor * number

    bus.predictor("floats", to="scaled")(partial(scaled, 2.0))
    try:
        application = bus.asgi(only=["scaled"])
        async with application.lifespan(), client_of(application) as client:
            document = (await client.get("/openapi.json")).json()
    finally:
        del bus.handlers["scaled"]
    assert document["paths"]["/predict/scaled"]["post"]["description"] == "Scales numbers."


EXAMPLES = 25
PATHS = ["/predict/double", "/predict/double_one", "/predict/root", "/events/numbers"]
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", list(schemathesis.GenerationMode))
def test_every_response_is_one_that_it_describes(
    bus: Bus, path: str, kind: schemathesis.GenerationMode
) -> None:
    """For requests that fit the document, and for those that do not."""
    application = bus.asgi()

    async def describe() -> dict[str, Any]:
        async with application.lifespan(), client_of(application) as client:
            document: dict[str, Any] = (await client.get("/openapi.json")).json()
            return document

    operation = schemathesis.openapi.from_dict(anyio.run(describe))[path]["POST"]

    with anyio.from_thread.start_blocking_portal() as portal:
        client = client_of(application)

        async def post(**arguments: Any) -> httpx.Response:
            return await client.post(path, **arguments)

        @settings(
            max_examples=EXAMPLES,
            phases=[Phase.generate],
            database=None,
            suppress_health_check=[*HealthCheck],
        )
        @given(operation.as_strategy(generation_mode=kind))
        def send(case: schemathesis.Case[Any]) -> None:
            arguments = case.as_transport_kwargs(base_url="http://127.0.0.1:8000")
            known = {name: arguments[name] for name in ("json", "headers") if arguments.get(name) is not None}
            if isinstance(arguments.get("data"), bytes | str):
                known["content"] = arguments["data"]
            answer = portal.call(partial(post, **known))
            case.validate_response(answer, checks=CHECKS)
            answers.append(answer.status_code)

        answers: list[int] = []
        hub = Hub()
        with (
            portal.wrap_async_context_manager(bus.open(hub)),
            portal.wrap_async_context_manager(application.lifespan()),
        ):
            send()
        assert len(answers) >= EXAMPLES
