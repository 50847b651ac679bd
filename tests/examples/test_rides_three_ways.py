"""Three deployments of one predictor: the same predictions, to the last bit, with the same ids."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest
import sqlalchemy as sa

from eventml.testing import TestBus
from examples.rides.app import bus
from examples.rides.folder import ENVIRONMENT
from examples.rides.generator import generate
from examples.rides.trips import ride_events
from tests.examples.readme import run, running

if TYPE_CHECKING:
    from pathlib import Path

RIDES = list(ride_events(generate(500, part="live")))


@pytest.fixture
def streamed(rides_models: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The minutes of each prediction, by its id."""
    monkeypatch.setenv(ENVIRONMENT, str(rides_models))
    return anyio.run(stream)


async def stream() -> dict[str, float]:
    async with TestBus(bus, only=["duration"]) as t:
        await t.publish_many("rides.started", RIDES)
        minutes = [event.minutes for event in t.published("rides.duration")]
        return dict(zip((record.id for record in t.records("rides.duration")), minutes, strict=True))


def test_web_service_gives_the_predictions_of_the_stream(
    streamed: dict[str, float], rides_models: Path, tmp_path: Path
) -> None:
    command = ["eventml", "serve", "examples.rides.app:bus", "--port", "0"]
    with running(command, tmp_path, "serving on", **{ENVIRONMENT: str(rides_models)}) as line:
        [address] = re.findall(r"serving on (http://[\d.:]+)", line)
        body, said = msgspec.json.encode(RIDES), {"content-type": "application/json"}
        request = urllib.request.Request(f"{address}/predict/duration", body, said)  # noqa: S310 - ours
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - ours
            served = {one["id"]: one["prediction"]["minutes"] for one in json.load(answer)}
    assert served == streamed


def test_batch_job_gives_the_predictions_of_the_stream(
    streamed: dict[str, float], rides_models: Path, tmp_path: Path
) -> None:
    (tmp_path / "rides.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(RIDES))
    database = f"sqlite:///{tmp_path}/scored.db"
    command = ["eventml", "score", "examples.rides.app:duration", "--from", "rides.jsonl"]
    said = {ENVIRONMENT: str(rides_models)}
    run([*command, "--to", f"{database}#duration", "--chunk", "64"], tmp_path, **said)
    engine = sa.create_engine(database)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT prediction_id, minutes FROM duration"))
        scored = {row.prediction_id: row.minutes for row in rows}
    engine.dispose()
    assert scored == streamed
