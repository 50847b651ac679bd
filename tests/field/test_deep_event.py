"""A client sent an event nested 600 deep, the predictor repeated it, and the service answered 500."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx
import msgspec
import pytest

from eventml import Bus
from eventml.testing import TestBus

if TYPE_CHECKING:
    from pathlib import Path

DEEP = b"[" * 600 + b"]" * 600


def echoing(form: str) -> Bus:
    bus = Bus("echo")
    if form == "batch":

        @bus.predictor("in", to="out", name="echo")
        def echo_all(events: list[Any]) -> list[Any]:
            return events

    elif form == "wrapped":

        @bus.predictor("in", to="out", name="echo")
        def wrap(event: Any) -> dict[str, Any]:
            return {"of": event}

    else:

        @bus.predictor("in", to="out", name="echo")
        def echo(event: Any) -> Any:
            return event

    return bus


@pytest.mark.anyio
@pytest.mark.parametrize("form", ["single", "batch", "wrapped"])
async def test_the_service_answers_422_for_that_event_only(form: str) -> None:
    application = echoing(form).asgi()
    async with (
        application.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://localhost") as client,
    ):
        body = b'[{"x":1},%b,{"x":2}]' % DEEP
        answer = await client.post(
            "/predict/echo", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 207
        good, bad, other = answer.json()
        assert (bad["error"]["status"], bad["error"]["detail"]) == (
            422,
            "echo returned an output that is nested too deep",
        )
        assert "prediction" in good
        assert "prediction" in other
        answer = await client.post(
            "/predict/echo", content=b'{"of":%b}' % DEEP, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 422


@pytest.mark.anyio
@pytest.mark.parametrize("form", ["single", "batch", "wrapped"])
async def test_the_stream_loses_that_event_only(form: str) -> None:
    async with TestBus(echoing(form)) as bus:
        await bus.publish_many("in", [{"x": 1}, msgspec.json.decode(DEEP), {"x": 2}])
        await bus.settle()
        assert len(bus.published("out")) == 2
        [letter] = bus.dead_letters("in")
        assert letter.exception == "Reject"


def test_a_batch_job_rejects_that_row_only(tmp_path: Path) -> None:
    from eventml.deploy import batch  # noqa: PLC0415 - it needs an extra

    bus = Bus("echo")

    @bus.predictor("in", to="out")
    def echo(event: dict[str, Any]) -> dict[str, Any]:
        return {"part": event["part"]}

    rows = [b'{"id":"%d","part":%b}' % (n, DEEP if n == 1 else b"[1]") for n in range(3)]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    plan = batch.ScorePlan(
        predictor="echo",
        source=batch.parse_location(str(tmp_path / "in.jsonl"), option="--from"),
        target=batch.parse_location(str(tmp_path / "out.jsonl"), option="--to"),
        id_column="id",
    )
    summary = anyio.run(batch.score, bus, plan)
    assert (summary.read, summary.written, summary.rejected) == (3, 2, 1)
