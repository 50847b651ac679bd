"""Delta tables as sources and targets of a job: versions, commits, partitions, runs that are resumed."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from eventml.deploy.batch import parse_location
from eventml.deploy.batch.datasets import replace_partitions
from eventml.errors import JobError, MissingExtraError, SourceError, TargetError
from tests.batch.conftest import ScoreNow, read, rides, write

if TYPE_CHECKING:
    from tests.batch.conftest import Row

deltalake: Any = pytest.importorskip("deltalake")

ROWS = [
    *({**row, "zone": 20 + row["zone"] % 5} for row in rides(500)),
    {**rides(1)[0], "ride_id": "r-9999999", "zone": 13},
]


@pytest.fixture
def expected(scored_now: ScoreNow) -> list[Row]:
    scored_now("minutes", write("rides.parquet", ROWS), "expected.parquet")
    return read("expected.parquet").rows


def make(place: str, rows: list[Row], **options: Any) -> str:
    deltalake.write_deltalake(place, pa.Table.from_pylist(rows), mode="overwrite", **options)
    return place


def reader(rows: pa.RecordBatch) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(rows.schema, [rows])


def version(place: str) -> int:
    return int(deltalake.DeltaTable(place).version())


@pytest.mark.parametrize("partitions", [[], ["zone"]])
def test_the_last_version_is_read_and_a_run_is_one_commit(
    partitions: list[str], expected: list[Row], scored_now: ScoreNow
) -> None:
    make("rides.delta", rides(900, first=700), partition_by=partitions)
    make("rides.delta", ROWS)
    for run in range(2):
        summary = scored_now("minutes", "rides.delta", "out.delta", chunk=64)
        assert (summary.read, summary.written, summary.rejected) == (501, 500, 1)
        assert version("out.delta") == run
        assert read("out.delta").rows == expected
    [reject] = Path("out.delta.rejects.jsonl").read_text().splitlines()
    assert json.loads(reject)["id"] == "r-9999999"
    assert not Path("out.delta.eventml").exists()


def test_a_table_of_any_name_is_read_and_replaced(expected: list[Row], scored_now: ScoreNow) -> None:
    make("lake/trips", ROWS)
    scored_now("minutes", "rides.parquet", "minutes.delta")
    Path("minutes.delta").rename("lake/minutes")
    scored_now("minutes", "lake/trips/", "lake/minutes/")
    assert version("lake/minutes") == 1
    Path("lake/minutes").rename("minutes.delta")
    assert read("minutes.delta").rows == expected


def test_a_run_replaces_its_partitions_by_one_commit(expected: list[Row], scored_now: ScoreNow) -> None:
    scored_now("minutes", "rides.parquet", "out.delta", partition_by=("zone",))
    assert read("out.delta").rows == expected
    assert {path.name for path in Path("out.delta").glob("zone=*")} == {f"zone={n}" for n in range(20, 25)}
    later = [{**row, "distance": 1.0} for row in rides(3, first=900)]
    write("later.parquet", [{**row, "zone": 22} for row in later])
    scored_now("minutes", "later.parquet", "out.delta", partition_by=("zone",))
    assert version("out.delta") == 1
    kept = [row for row in expected if row["zone"] != 22]
    assert [row["id"] for row in read("out.delta").rows] == [
        *(row["id"] for row in kept),
        *(row["ride_id"] for row in later),
    ]


@pytest.mark.parametrize("values", [["it's", 'a "b"', None, ""], [1, -2, None], [0.1, -1.5e-7, None]])
def test_partitions_of_any_value_are_replaced(values: list[Any]) -> None:
    location: Any = parse_location("out.delta", option="--to")
    for run in range(2):
        rows = pa.RecordBatch.from_pylist([{'Key "one"': one, "n": run} for one in values])
        replace_partitions(location, partial(reader, rows), ['Key "one"'])
    first = pa.RecordBatch.from_pylist([{'Key "one"': values[0], "n": 2}], schema=rows.schema)
    replace_partitions(location, partial(reader, first), ['Key "one"'])
    table = deltalake.QueryBuilder().register("rows", deltalake.DeltaTable("out.delta"))
    rows = pa.table(table.execute("SELECT * FROM rows")).to_pylist()
    assert {row['Key "one"']: row["n"] for row in rows} == {**dict.fromkeys(values, 1), values[0]: 2}
    assert len(rows) == len(values)


def test_more_partitions_than_deltalake_can_compare_are_refused(folder: Path) -> None:
    location: Any = parse_location("out.delta", option="--to")
    rows = pa.RecordBatch.from_pydict({"n": list(range(4096)), "x": [1.0] * 4096})
    for _ in range(2):
        replace_partitions(location, partial(reader, rows), ["n"])
    assert deltalake.DeltaTable("out.delta").count() == 4096
    rows = pa.RecordBatch.from_pydict({"n": list(range(4097)), "x": [1.0] * 4097})
    with pytest.raises(
        TargetError, match=r"out\.delta: the rows are in 4,097 partitions, and .*--partition-by"
    ):
        replace_partitions(location, partial(reader, rows), ["n"])
    assert version("out.delta") == 1


def test_a_table_with_other_columns_is_replaced_as_a_whole_or_not_at_all(scored_now: ScoreNow) -> None:
    write("rides.parquet", rides(5))
    scored_now("minutes", "rides.parquet", "out.delta", partition_by=("zone",))
    with pytest.raises(TargetError, match=r"out\.delta: the Delta table has other columns"):
        scored_now("single", "rides.parquet", "out.delta", partition_by=("model_version",))
    assert version("out.delta") == 0
    scored_now("single", "rides.parquet", "out.delta")
    assert {row["id"]: row["value"] for row in read("out.delta").rows} == {
        row["ride_id"]: row["distance"] * 2.1 for row in rides(5)
    }


@pytest.mark.parametrize("partition_by", [(), ("model_version",)])
@pytest.mark.parametrize("kind", [pa.int64(), pa.float32(), pa.string()])
def test_values_are_not_cast_to_the_types_of_a_table(
    kind: pa.DataType, partition_by: tuple[str, ...], scored_now: ScoreNow
) -> None:
    write("rides.parquet", rides(5))
    scored_now("single", "rides.parquet", "first.parquet")
    table = pa.Table.from_pylist(read("first.parquet").rows)
    changed = table.set_column(1, "value", table["value"].cast(kind, safe=False))
    deltalake.write_deltalake("out.delta", changed, partition_by=list(partition_by))
    if partition_by:
        with pytest.raises(TargetError, match="or other types"):
            scored_now("single", "rides.parquet", "out.delta", partition_by=partition_by)
    else:
        scored_now("single", "rides.parquet", "out.delta")
        assert read("out.delta").rows == table.to_pylist()


def test_a_run_that_failed_commits_nothing_and_is_resumed(expected: list[Row], scored_now: ScoreNow) -> None:
    make("rides.delta", ROWS)
    with pytest.raises(JobError, match="--max-rejects"):
        scored_now("minutes", "rides.delta", "out.delta", max_rejects=0, chunk=50, checkpoint=0.0)
    assert not Path("out.delta").exists()
    summary = scored_now("minutes", "rides.delta", "out.delta", chunk=50)
    assert (summary.resumed, summary.written) == (501, 500)
    assert (version("out.delta"), read("out.delta").rows) == (0, expected)


def test_files_of_a_first_commit_that_was_killed_are_in_no_way(scored_now: ScoreNow) -> None:
    write("rides.parquet", rides(3))
    Path("out.delta").mkdir()
    Path("out.delta/part-00000-c000.snappy.parquet#1").write_text("unfinished")
    for run in range(2):
        scored_now("minutes", "rides.parquet", "out.delta")
        assert (version("out.delta"), len(read("out.delta").rows)) == (run, 3)


def test_a_commit_to_the_source_begins_the_run_anew(scored_now: ScoreNow) -> None:
    make("rides.delta", ROWS)
    with pytest.raises(JobError, match="--max-rejects"):
        scored_now("minutes", "rides.delta", "out.delta", max_rejects=0, checkpoint=0.0)
    deltalake.DeltaTable("rides.delta").delete("zone = 13")
    summary = scored_now("minutes", "rides.delta", "out.delta")
    assert (summary.resumed, summary.read, summary.rejected) == (0, 500, 0)


def test_an_empty_table_and_one_without_predictions(scored_now: ScoreNow) -> None:
    make("rides.delta", rides(3))
    deltalake.DeltaTable("rides.delta").delete()
    for run in range(2):
        assert scored_now("minutes", "rides.delta", "out.delta").read == 0
        assert version("out.delta") == run


def test_a_table_of_something_else_is_not_replaced(scored_now: ScoreNow) -> None:
    make("mine", [{"mine": 1}])
    write("rides.parquet", rides(2))
    with pytest.raises(TargetError, match="the folder exists and holds no predictions: it has the columns m"):
        scored_now("minutes", "rides.parquet", "mine")
    assert version("mine") == 0


def test_column_mapping_is_refused_though_an_old_protocol_does_not_tell_it(scored_now: ScoreNow) -> None:
    make("rides.delta", rides(3))
    [log] = Path("rides.delta/_delta_log").glob("*.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    [protocol] = (line for line in lines if "protocol" in line)
    [metadata] = (line["metaData"] for line in lines if "metaData" in line)
    protocol["protocol"] = {"minReaderVersion": 2, "minWriterVersion": 5}
    metadata["configuration"] = {"delta.columnMapping.mode": "name"}
    schema = json.loads(metadata["schemaString"])
    for number, field in enumerate(schema["fields"], 1):  # `zone` and `passengers` have changed their names
        names = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": field["name"]}
        field["metadata"] = names
        field["name"] = {"zone": "passengers", "passengers": "zone"}.get(field["name"], field["name"])
    metadata["schemaString"] = json.dumps(schema)
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(SourceError, match=r"rides\.delta: a Delta table with column mapping cannot be read"):
        scored_now("minutes", "rides.delta", "out.parquet")


def test_a_source_that_is_none(scored_now: ScoreNow, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match=r"no\.delta: No such file"):
        scored_now("minutes", "no.delta", "out.delta")
    make("rides.delta", rides(2), configuration={"delta.enableDeletionVectors": "true"})
    with pytest.raises(SourceError, match=r"rides\.delta: cannot be read as Parquet: .*deletionVectors"):
        scored_now("minutes", "rides.delta", "out.delta")
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'eventml\[delta\]'"):
        scored_now("minutes", "rides.delta", "out.delta")
