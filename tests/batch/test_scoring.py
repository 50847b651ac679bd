"""Calling the predictor: how many rows one call has, and what happens after a call that failed."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from eventml import Bus
from eventml.deploy.batch import ScorePlan, parse_location, score
from eventml.deploy.batch.output_columns import as_list, check_outputs
from eventml.errors import OutputError
from eventml.handlers import read_handler
from eventml.runtime import OutputChecks
from tests.batch.conftest import read, rides, write

if TYPE_CHECKING:
    from eventml.deploy.batch import ScoreSummary

SIZE = 4_000


class Ride(msgspec.Struct):
    ride_id: str
    distance: float


async def scored(predict: Any, *, chunk: int = SIZE, rows: int = SIZE, **options: Any) -> ScoreSummary:
    bus = Bus("rides")
    bus.topic("rides", id_field="ride_id")
    bus.predictor("rides", to="out", name="predict", backoff=0.001, **options)(predict)
    plan = ScorePlan(
        predictor="predict",
        source=parse_location(write("rides.parquet", rides(rows)), option="--from"),
        target=parse_location("out.jsonl", option="--to"),
        chunk=chunk,
    )
    return await score(bus, plan)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("options", "largest"),
    [({}, SIZE), ({"max_batch": 1024}, 1024), ({"max_batch": 100}, 100), ({"timeout": 60.0}, 1024)],
)
async def test_a_call_has_a_whole_chunk_unless_max_batch_or_a_timeout_is_set(
    options: dict[str, Any], largest: int
) -> None:
    sizes: list[int] = []

    def predict(rides: list[Ride]) -> list[float]:
        sizes.append(len(rides))
        return [ride.distance for ride in rides]

    assert (await scored(predict, **options)).written == SIZE
    assert max(sizes) == largest


@pytest.mark.anyio
async def test_max_batch_in_the_configuration_bounds_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTML_CONSUMER_PREDICT_MAX_BATCH", "1024")
    sizes: list[int] = []

    def predict(rides: list[Ride]) -> list[float]:
        sizes.append(len(rides))
        return [ride.distance for ride in rides]

    await scored(predict)
    assert max(sizes) == 1024


@pytest.mark.anyio
async def test_the_row_at_fault_is_found_in_smaller_batches(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[list[str]] = []

    def predict(rides: list[Ride]) -> list[float]:
        calls.append([ride.ride_id for ride in rides])
        if any(ride.ride_id == "r-0000005" for ride in rides):
            raise ValueError("no such ride")
        return [ride.distance for ride in rides]

    with caplog.at_level(logging.WARNING, "eventml"):
        summary = await scored(predict, rows=16, retries=0)
    assert (summary.written, summary.rejected) == (15, 1)
    assert ["r-0000005"] in calls
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("predict: a call for 16 rows failed (ValueError: no such ride)")


@pytest.mark.anyio
async def test_an_outage_is_waited_for_and_its_warning_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def predict(rides: list[Ride]) -> list[float]:
        if len(rides) > 1024:
            raise ConnectionError("the feature store is down")
        return [ride.distance for ride in rides]

    with caplog.at_level(logging.WARNING, "eventml"):
        summary = await scored(predict, rows=3 * SIZE)
    assert (summary.written, summary.rejected) == (3 * SIZE, 0)
    assert [r.getMessage().startswith("predict: a call for") for r in caplog.records].count(True) == 1
    assert read("out.jsonl").rejects == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_an_array_with_a_number_that_is_not_finite_is_refused(bad: float, dtype: str) -> None:
    def predict(events: list[Ride]) -> Any:
        """Never called."""

    checks = OutputChecks(read_handler(predict, "b", topic="t", to="u", arguments={}))
    found = check_outputs(checks, np.array([0.1, 2], dtype), 2)
    assert as_list(found) == [float(np.dtype(dtype).type(0.1)), 2.0]
    with pytest.raises(OutputError, match="output 1 is not a finite number"):
        check_outputs(checks, np.array([0.1, bad], dtype), 2)
    with pytest.raises(OutputError, match="returned 2 outputs for 3 events"):
        check_outputs(checks, np.array([0.1, 2], dtype), 3)
