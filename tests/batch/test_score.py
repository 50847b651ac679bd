"""Every kind of source to every kind of target: each row once, with the predictor's numbers."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.conftest import SOURCES, TARGETS, read, rides, write

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Score

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
async def test_each_row_is_written_once_with_its_prediction(source: str, target: str, scored: Score) -> None:
    rows = rides(1000)
    summary = await scored("minutes", write(source, rows), target, chunk=64)
    found = {row["id"]: row for row in read(target).rows}
    assert (summary.state, summary.read, summary.written, summary.rejected) == ("finished", 1000, 1000, 0)
    assert len(read(target).rows) == 1000
    for row in rows:
        prediction = found[row["ride_id"]]
        assert prediction["minutes"] == row["distance"] * 2.1
        assert prediction["zone"] == row["zone"]
        assert prediction["prediction_id"] == f"{row['ride_id']}/minutes@v1"
        assert [prediction[name] for name in ("predictor", "model", "model_version")] == [
            "minutes",
            "doubling",
            "v1",
        ]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("predictor", ["single", "array", "frame", "table"])
@pytest.mark.parametrize("source", ["rides.parquet", "rides.csv"])
async def test_every_kind_of_predictor_gives_the_same(
    source: str, predictor: str, target: str, scored: Score
) -> None:
    rows = rides(300)
    await scored(predictor, write(source, rows), target, chunk=64)
    assert {row["id"]: row["value"] for row in read(target).rows} == {
        row["ride_id"]: row["distance"] * 2.1 for row in rows
    }


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
async def test_a_second_run_writes_nothing_twice(source: str, target: str, scored: Score) -> None:
    await scored("minutes", write(source, rides(300)), target, chunk=64)
    again = await scored("minutes", write(source, rides(400)), target, chunk=64)
    assert (again.written, again.unchanged) == ((100, 300) if "://" in target else (400, 0))
    assert read(target).ids == [row["ride_id"] for row in rides(400)]


async def test_a_table_has_the_predictions_of_each_model_version(
    scored: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = "sqlite:///out.db#predictions"
    write("rides.parquet", rides(100))
    await scored("minutes", "rides.parquet", target, chunk=30)
    monkeypatch.setenv("MODEL_VERSION", "v2")
    again = await scored("minutes", "rides.parquet", target, chunk=30)
    assert (again.written, again.unchanged) == (100, 0)
    assert len({(row["id"], row["model_version"]) for row in read(target).rows}) == 200


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
async def test_a_bad_row_is_rejected_and_costs_only_itself(source: str, target: str, scored: Score) -> None:
    rows = rides(200)
    for number, zone in ((3, 13), (77, 13), (120, 14), (130, 15)):
        rows[number]["zone"] = zone
    rows[150]["distance"] = None
    summary = await scored("minutes", write(source, rows), target, chunk=64)
    assert (summary.read, summary.written, summary.no_output, summary.rejected) == (200, 195, 1, 4)
    found = read(target)
    rejects = {row["id"]: row for row in found.rejects}
    assert set(rejects) == {rows[number]["ride_id"] for number in (3, 77, 120, 150)}
    assert rejects["r-0000003"]["exception"] == "ValueError"
    assert rejects["r-0000003"]["message"] == "no such zone: r-0000003"
    assert rejects["r-0000003"]["attempts"] == 2
    assert rejects["r-0000120"]["exception"] == "Reject"
    assert rejects["r-0000150"]["exception"] == "DecodeError"
    assert "distance" in rejects["r-0000150"]["message"] or "float" in rejects["r-0000150"]["message"]
    kept = json.loads(rejects["r-0000077"]["row"])
    assert str(kept["zone"]) == "13"
    assert len(found.rows) == 195


@pytest.mark.parametrize("target", TARGETS)
async def test_rejects_are_those_of_the_last_run(target: str, scored: Score) -> None:
    rows = rides(50)
    rows[5]["zone"] = 13
    await scored("minutes", write("sqlite:///rides.db#rides", rows), target)
    rows[5]["zone"] = 30
    mended = await scored("minutes", write("sqlite:///rides.db#rides", rows), target)
    expected = (1, 49, 0) if "://" in target else (50, 0, 0)
    assert (mended.written, mended.unchanged, mended.rejected) == expected
    assert read(target).rejects == []


@pytest.mark.parametrize("predictor", ["minutes", "single", "frame", "table"])
async def test_without_rows_there_is_an_empty_target(predictor: str, scored: Score) -> None:
    pq.write_table(pa.Table.from_pylist(rides(1)).slice(0, 0), "rides.parquet")
    for target in ("out.parquet", "out.csv", "out.jsonl"):
        summary = await scored(predictor, "rides.parquet", target)
        assert summary.read == 0
        assert read(target).rows == []


async def test_ids_may_be_integers(scored: Score) -> None:
    rows = [{**row, "number": 10**15 + place} for place, row in enumerate(rides(100))]
    write("rides.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), "rides.parquet")
    for source in ("rides.parquet", "rides.jsonl"):
        for target in ("out.parquet", "out.jsonl", "sqlite:///out.db#predictions"):
            named = target.replace("out", source.replace(".", "_"))
            await scored("array", source, named, id_column="number", chunk=30)
            found = read(named).rows
            assert {row["id"] for row in found} == {row["number"] for row in rows}
            assert found[0]["prediction_id"] == f"{found[0]['id']}/array@v1"


async def test_source_and_target_may_be_one_database(scored: Score) -> None:
    write("sqlite:///both.db#rides", rides(500))
    summary = await scored("minutes", "sqlite:///both.db#rides", "sqlite:///both.db#predictions", chunk=64)
    assert summary.written == 500
    assert len(read("sqlite:///both.db#predictions").rows) == 500


async def test_a_query_chooses_rows_and_names_columns(scored: Score) -> None:
    write("sqlite:///rides.db#rides", rides(100))
    query = "SELECT ride_id AS ride, ride_id, zone, distance, ':x %' AS odd FROM rides WHERE zone < 40; "
    summary = await scored(
        "array", "sqlite:///rides.db", "out.parquet", query=query, id_column="ride", chunk=7
    )
    assert summary.written == 20


async def test_names_that_must_be_quoted(scored: Score) -> None:
    import sqlite3  # noqa: PLC0415 - for this test alone

    with sqlite3.connect("odd.db") as connection:
        connection.execute(
            'CREATE TABLE "select; drop ""t""" ("ride_id" TEXT, "zone" INT, "distance" REAL, "a b" INT)'
        )
        rows = [("it's", 20, 1.5, 1), ('"', 21, 2.5, 2)]
        connection.executemany('INSERT INTO "select; drop ""t""" VALUES (?, ?, ?, ?)', rows)
    connection.close()
    target = 'sqlite:///odd.db#order by "1"; --'
    summary = await scored("array", 'sqlite:///odd.db#select; drop "t"', target)
    assert summary.written == 2
    with sqlite3.connect("odd.db") as connection:
        found = connection.execute('SELECT id, value FROM "order by ""1""; --" ORDER BY value').fetchall()
    connection.close()
    assert found == [("it's", 3.1500000000000004), ('"', 5.25)]


async def test_outputs_without_a_type_become_columns_by_their_names(scored: Score) -> None:
    write("rides.jsonl", rides(10))
    await scored("untyped", "rides.jsonl", "out.jsonl")
    first = read("out.jsonl").rows[0]
    assert (first["twice"], json.loads(first["all"])) == (0.2, [20, 1])
    assert first["prediction_id"] == "r-0000000/untyped"


async def test_nothing_is_left_beside_a_finished_file(scored: Score, folder: Path) -> None:
    write("rides.parquet", rides(10))
    await scored("minutes", "rides.parquet", "out.parquet")
    found = await anyio.to_thread.run_sync(os.listdir, folder)
    assert sorted(found) == ["out.parquet", "rides.parquet"]
