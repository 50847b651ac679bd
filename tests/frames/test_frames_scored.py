"""A frame of a scored file: its columns at once, named as the fields are and not as they travel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pandas as pd  # noqa: TC002 - the bus reads the annotations at run time
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eventml import Bus
from eventml.deploy.batch import ScorePlan, parse_location, score

if TYPE_CHECKING:
    from pathlib import Path


class Ride(msgspec.Struct, rename="camel"):
    ride_id: str
    trip_distance: float


@pytest.mark.anyio
async def test_a_file_is_one_frame_a_chunk(tmp_path: Path) -> None:
    bus = Bus("rides")
    bus.topic("rides", id_field="rideId")
    sizes: list[int] = []

    @bus.predictor("rides", to="out", event_type=Ride)
    def distance(rides: pd.DataFrame) -> pd.Series:
        sizes.append(len(rides))
        return rides["trip_distance"]

    numbers = [float(number) for number in range(3000)]
    table = pa.table({"rideId": [f"r{n:.0f}" for n in numbers], "tripDistance": numbers})
    pq.write_table(table, tmp_path / "rides.parquet")
    plan = ScorePlan(
        predictor="distance",
        source=parse_location(str(tmp_path / "rides.parquet"), option="--from"),
        target=parse_location(str(tmp_path / "out.parquet"), option="--to"),
        chunk=3000,
    )
    summary = await score(bus, plan)
    assert (summary.written, summary.rejected) == (3000, 0)
    assert sizes == [3000]
    assert sorted(pq.read_table(tmp_path / "out.parquet")["value"].to_pylist()) == numbers
