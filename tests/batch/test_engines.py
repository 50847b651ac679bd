"""The scorer on real engines: each reads, distributes and writes, and the predictions are those of a job."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from eventml.batch import scorer
from tests.batch.conftest import ScoreNow, read, rides, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.batch.conftest import Row

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore"),  # the engines' own
]

ROWS = [*rides(3000), *({**row, "zone": 13} for row in rides(2, first=3000))]


@pytest.fixture
def expected(scored_now: ScoreNow) -> list[Row]:
    scored_now("minutes", write("rides.parquet", ROWS), "out.parquet")
    return read("out.parquet").rows


def check(found: list[Row], expected: list[Row]) -> None:
    """Check that predictions and rejected rows are those of a job, to the last bit."""
    rejected = {row["rejected"]["id"]: row["rejected"]["message"] for row in found if row["rejected"]}
    assert rejected == {f"r-000300{n}": f"no such zone: r-000300{n}" for n in (0, 1)}
    found = [{**row} for row in found if row.pop("rejected") is None]
    assert sorted(found, key=lambda row: row["id"]) == expected


def test_duckdb(expected: list[Row]) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection, connection.cursor() as reading:
        scored = scorer("scored_app:minutes")(reading.sql("SELECT * FROM 'rides.parquet'"))
        connection.register("scored", scored)  # which is read on the other cursor meanwhile
        connection.sql("CREATE TABLE predictions AS SELECT * FROM scored")
        check(connection.sql("SELECT * FROM predictions").arrow().read_all().to_pylist(), expected)


def test_delta(expected: list[Row]) -> None:
    deltalake = pytest.importorskip("deltalake")
    deltalake.write_deltalake("rides", pa.Table.from_pylist(ROWS))

    def rows(table: str) -> Any:
        query = deltalake.QueryBuilder().register("rows", deltalake.DeltaTable(table))
        return query.execute("SELECT * FROM rows")

    for _ in range(2):
        scored = scorer("scored_app:minutes")(rows("rides"))
        deltalake.write_deltalake("scored", scored, mode="overwrite")
    assert deltalake.DeltaTable("scored").version() == 1  # one commit for each run
    check(pa.table(rows("scored")).to_pylist(), expected)


def test_polars(expected: list[Row]) -> None:
    polars: Any = pytest.importorskip("polars")
    score = scorer("scored_app:minutes")
    frame = polars.scan_parquet("rides.parquet").map_batches(
        score, schema=polars.from_arrow(score.schema.empty_table()).schema
    )
    check(frame.collect().to_arrow().to_pylist(), expected)


def test_dask(expected: list[Row]) -> None:
    dask = pytest.importorskip("dask.dataframe")
    score = scorer("scored_app:minutes")
    # As Arrow has them: in numpy's types, integers with a null among them are floats.
    frame = dask.read_parquet("rides.parquet", dtype_backend="pyarrow").repartition(npartitions=3)
    frame.map_partitions(score).to_parquet("scored", write_index=False)
    check(pads.dataset("scored").to_table().to_pylist(), expected)


def test_ray(expected: list[Row], folder: Path) -> None:
    ray = pytest.importorskip("ray")
    environment = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    try:
        rows = ray.data.read_parquet(str(folder / "rides.parquet"))
        scored = rows.map_batches(scorer("scored_app:minutes"), batch_format="pyarrow", batch_size=500)
        scored.write_parquet(str(folder / "scored"))
    finally:
        ray.shutdown()
    check(pads.dataset("scored").to_table().to_pylist(), expected)


@pytest.fixture
def spark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pyspark = pytest.importorskip("pyspark")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    sql = pytest.importorskip("pyspark.sql")
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    yield session
    session.stop()
    gateway = pyspark.SparkContext._gateway
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(30)
    pyspark.SparkContext._gateway = pyspark.SparkContext._jvm = None


def test_spark(spark: Any, expected: list[Row], folder: Path) -> None:
    from pyspark.sql.pandas.types import from_arrow_schema  # noqa: PLC0415 - it may not be installed

    score = scorer("scored_app:minutes")
    rows = spark.read.parquet(str(folder / "rides.parquet")).repartition(3)
    scored = rows.mapInArrow(score, from_arrow_schema(score.schema))
    scored.write.parquet(str(folder / "scored"))
    check(pads.dataset("scored").to_table().to_pylist(), expected)
