"""Predictions of a batch job: rides are read from a table or a file, predictions are written to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import sqlalchemy as sa

from eventml.deploy.batch import ScorePlan, parse_location, score
from tests.parity.parity_app import bus
from tests.parity.predictions import Predictions, prediction

if TYPE_CHECKING:
    from collections.abc import Sequence


def predict_in_batch(kind: str, rides: Sequence[dict[str, Any]], folder: Path) -> Predictions:
    """Return the predictions of the bus for a table.

    Args:
        kind: Suffix of a file, or URL of a database.
        rides: Rows of the table.
        folder: Folder for files.
    """
    database = "://" in kind
    source = f"{kind}#rides" if database else str(folder / f"rides.{kind}")
    (_fill if database else _save)(source, rides)
    predictions: Predictions = {}
    for predictor in bus.handlers:
        target = f"{kind}#{predictor}" if database else str(folder / f"{predictor}.{kind}")
        plan = ScorePlan(
            predictor=predictor,
            source=parse_location(source, option="--from"),
            target=parse_location(target, option="--to"),
            chunk=3000,
        )
        anyio.run(score, bus, plan)
        rows = _selected(target) if database else _loaded(target)
        predictions[predictor] = {row["id"]: prediction(predictor, row, row["prediction_id"]) for row in rows}
        assert len(predictions[predictor]) == len(rows)
    return predictions


def _fill(place: str, rides: Sequence[dict[str, Any]]) -> None:
    url, _, name = place.partition("#")
    engine = sa.create_engine(_driven(url))
    table = sa.Table(
        name,
        sa.MetaData(),
        sa.Column("ride_id", sa.Text, primary_key=True),
        sa.Column("pickup_location_id", sa.Integer),
        sa.Column("dropoff_location_id", sa.Integer),
        sa.Column("trip_distance", sa.Double),
        sa.Column("pickup_datetime", sa.DateTime),
        sa.Column("passenger_count", sa.Integer),
    )
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(table), list(rides))
    engine.dispose()


def _selected(place: str) -> Sequence[Any]:
    url, _, name = place.partition("#")
    engine = sa.create_engine(_driven(url))
    with engine.connect() as connection:
        rows = connection.execute(sa.text(f'SELECT * FROM "{name}"')).mappings().all()  # noqa: S608 - a test's own
    engine.dispose()
    return rows


def _driven(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


def _save(place: str, rides: Sequence[dict[str, Any]]) -> None:
    if place.endswith(".jsonl"):
        Path(place).write_bytes(b"".join(msgspec.json.encode(ride) + b"\n" for ride in rides))
    elif place.endswith(".csv"):
        pc.write_csv(pa.Table.from_pylist(list(rides)), place)
    else:
        pq.write_table(pa.Table.from_pylist(list(rides)), place)


def _loaded(place: str) -> Sequence[Any]:
    if place.endswith(".jsonl"):
        return [msgspec.json.decode(line) for line in Path(place).read_bytes().splitlines()]
    rows: list[Any] = (pc.read_csv if place.endswith(".csv") else pq.read_table)(place).to_pylist()
    return rows
