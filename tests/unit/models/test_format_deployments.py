"""Each format in each deployment predicts what its library predicts by itself, to the last bit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn

from eventml import Bus
from eventml.deploy.batch import ScorePlan, parse_location, score
from eventml.testing import TestBus
from tests.unit.models.format_cases import CASES, ROWS, Case

if TYPE_CHECKING:
    from pathlib import Path

    from eventml.models import Artefact

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")]


class Row(msgspec.Struct):
    row_id: str
    values: tuple[float, float, float]


class Saved(msgspec.Struct):
    case: Case
    artefact: Artefact
    own: list[str]
    """The library's predictions in hexadecimal, which shows all bits."""


@pytest.fixture(scope="module", params=CASES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    case = CASES[request.param]
    for module in case.needs:
        pytest.importorskip(
            module, reason=f"{module} is not installed: the format {request.param} is not tested"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that save
        artefact, own = case.save(tmp_path_factory.mktemp("saved"))
    return Saved(case, artefact, [float(value).hex() for value in own])


@pytest.fixture
def bus(saved: Saved) -> Bus:
    bus = Bus("formats")
    bus.topic("rows", event_type=Row, id_field="row_id")

    @bus.predictor("rows", to="numbers", model=saved.artefact, max_batch=64)
    def number(rows: list[Row], model: Any) -> list[float]:
        predicted = saved.case.predict(model, np.array([row.values for row in rows]))
        return [float(value) for value in predicted]

    return bus


EVENTS = [Row(str(at), tuple(row)) for at, row in enumerate(ROWS.tolist())]


def in_order(found: dict[str, dict[str, float]]) -> list[str]:
    return [found[event.row_id]["value"].hex() for event in EVENTS]


async def on_a_stream(bus: Bus, folder: Path) -> list[str]:
    async with TestBus(bus) as test:
        await test.publish_many("rows", EVENTS)
        found = {one.id.partition("/")[0]: msgspec.json.decode(one.value) for one in test.records("numbers")}
    return in_order(found)


async def as_a_web_service(bus: Bus, folder: Path) -> list[str]:
    server = uvicorn.Server(uvicorn.Config(bus.asgi(), host="127.0.0.1", port=0, log_level="warning"))
    found: dict[str, dict[str, float]] = {}
    async with anyio.create_task_group() as serving:
        serving.start_soon(server.serve)
        while not server.started:
            await anyio.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for start in range(0, len(EVENTS), 70):
                body = msgspec.json.encode(EVENTS[start : start + 70])
                answer = await client.post(
                    "/predict/number", content=body, headers={"content-type": "application/json"}
                )
                found |= {one["input"]: one["prediction"] for one in answer.json()}
        server.should_exit = True
    return in_order(found)


async def as_a_batch_job(bus: Bus, folder: Path) -> list[str]:
    rows = [msgspec.to_builtins(event) for event in EVENTS]
    source, target = folder / "rows.parquet", folder / "numbers.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    plan = ScorePlan(
        predictor="number",
        source=parse_location(str(source), option="--from"),
        target=parse_location(str(target), option="--to"),
        chunk=64,
    )
    await score(bus, plan)
    return in_order({row["id"]: row for row in pq.read_table(target).to_pylist()})


@pytest.mark.parametrize("deploy", [on_a_stream, as_a_web_service, as_a_batch_job])
def test_it_predicts_what_its_library_predicts(deploy: Any, saved: Saved, bus: Bus, tmp_path: Path) -> None:
    found = anyio.run(deploy, bus, tmp_path)
    assert len(set(found)) > 1, "a constant would prove nothing"
    assert found == saved.own
