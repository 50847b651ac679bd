"""Folders of Parquet files as sources and targets: their columns, and what a run may replace in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from eventml.errors import ConfigError, JobError, TargetError
from tests.batch.conftest import read, rides, write

if TYPE_CHECKING:
    from tests.batch.conftest import ScoreNow


def test_folders_are_columns_and_a_run_replaces_its_partitions(scored_now: ScoreNow) -> None:
    for month, first in (("2024-01", 0), ("2024-02", 300)):
        path = Path(f"trips/zone={month[-2:]}")
        path.mkdir(parents=True)
        table = pa.Table.from_pylist(rides(300, first=first)).drop_columns(["zone"])
        pq.write_table(table, path / "a.parquet", row_group_size=100)
    summary = scored_now("minutes", "trips/", "out/", partition_by=("zone",), chunk=70)
    assert summary.read == summary.written == 600
    found = pads.dataset("out", partitioning="hive").to_table()
    assert found["id"].to_pylist() == [row["ride_id"] for row in rides(600)]
    assert found.group_by("zone").aggregate([("zone", "count")]).to_pylist() == [
        {"zone": 1, "zone_count": 300},
        {"zone": 2, "zone_count": 300},
    ]
    Path("trips/zone=01/a.parquet").unlink()
    scored_now("minutes", "trips/", "out/", partition_by=("zone",))
    assert len(pads.dataset("out", partitioning="hive").to_table()) == 600  # that of January was kept


@pytest.mark.parametrize("values", [("007", "13"), ("7", "__HIVE_DEFAULT_PARTITION__"), ("a%2Fb", "1")])
def test_a_folder_gives_the_text_of_its_name_to_a_field_of_text(
    values: tuple[str, str], scored_now: ScoreNow
) -> None:
    for first, value in enumerate(values):
        path = Path(f"trips/area={value}")
        path.mkdir(parents=True)
        table = pa.Table.from_pylist(rides(1, first=first)).drop_columns(["zone"])
        pq.write_table(table, path / "a.parquet")
    summary = scored_now("areas", "trips/", "out.jsonl")
    assert summary.rejected == 0
    named = {"a%2Fb": "a/b", "__HIVE_DEFAULT_PARTITION__": None}
    assert {row["id"]: row["value"] for row in read("out.jsonl").rows} == {
        f"r-{n:07d}": named.get(value, value) or "none" for n, value in enumerate(values)
    }


def test_a_run_is_resumed_in_the_middle_of_a_file(scored_now: ScoreNow) -> None:
    Path("trips").mkdir()
    for number in range(3):
        write(f"trips/{number}.parquet", rides(100, first=100 * number))
    write("trips/3.parquet", [{**rides(1)[0], "zone": 13, "ride_id": "bad"}])
    with pytest.raises(JobError, match="--max-rejects"):
        scored_now("minutes", "trips", "out.parquet", chunk=30, checkpoint=0.0, max_rejects=0)
    summary = scored_now("minutes", "trips", "out.parquet", chunk=30)
    assert (summary.resumed, summary.read) == (301, 301)
    assert [row["id"] for row in read("out.parquet").rows] == [row["ride_id"] for row in rides(300)]


def test_a_changed_file_begins_the_run_anew(scored_now: ScoreNow) -> None:
    Path("trips").mkdir()
    write("trips/0.parquet", [*rides(9), {**rides(1)[0], "zone": 13, "ride_id": "bad"}])
    with pytest.raises(JobError, match="--max-rejects"):
        scored_now("minutes", "trips", "out.parquet", checkpoint=0.0, max_rejects=0)
    write("trips/1.parquet", rides(1, first=50))
    assert scored_now("minutes", "trips", "out.parquet").resumed == 0


def test_a_column_that_only_some_files_have_is_null_in_the_others(scored_now: ScoreNow) -> None:
    Path("trips").mkdir()
    for number, missing in enumerate(("passengers", "", "zone", "ride_id")):
        table = pa.Table.from_pylist(rides(2, first=2 * number))
        pq.write_table(table.drop_columns([missing] if missing else []), f"trips/{number}.parquet")
    summary = scored_now("untyped", "trips", "out.jsonl", id_column="ride_id")
    assert (summary.read, summary.rejected) == (8, 2)
    summary = scored_now("minutes", "trips", "out.parquet")
    assert (summary.read, summary.rejected) == (8, 4)
    assert [row["id"] for row in read("out.parquet").rows] == [row["ride_id"] for row in rides(4)]


def test_a_column_that_a_later_file_adds_is_read(scored_now: ScoreNow) -> None:
    Path("trips").mkdir()
    pq.write_table(pa.Table.from_pylist(rides(2)).drop_columns(["zone"]), "trips/0.parquet")
    write("trips/1.parquet", rides(2, first=2))
    assert scored_now("minutes", "trips", "out.parquet").written == 2


@pytest.mark.parametrize("target", ["trips/out.parquet", "trips/month=1/", "trips/"])
def test_a_target_in_the_folder_that_is_read_is_refused(target: str, scored_now: ScoreNow) -> None:
    Path("trips").mkdir()
    write("trips/0.parquet", rides(2))
    with pytest.raises(TargetError, match="the run would write into its own source"):
        scored_now("minutes", "trips/", target)


def test_a_folder_of_other_files_is_not_replaced(scored_now: ScoreNow) -> None:
    write("rides.parquet", rides(2))
    Path("notes").mkdir()
    Path("notes/a.txt").write_text("x")
    with pytest.raises(TargetError, match=r"notes: the folder exists and holds no pred.*Parquet"):
        scored_now("minutes", "rides.parquet", "notes/")


def test_columns_to_partition_by_are_checked_at_start(scored_now: ScoreNow) -> None:
    write("rides.parquet", rides(2))
    with pytest.raises(ConfigError, match=r"--partition-by: out\.parquet is no folder"):
        scored_now("minutes", "rides.parquet", "out.parquet", partition_by=("zone",))
    with pytest.raises(ConfigError, match="--partition-by: there is no column 'month'; there are: id, "):
        scored_now("minutes", "rides.parquet", "out/", partition_by=("month",))


def _everything(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("partition_by", [(), ("zone",)])
@pytest.mark.parametrize("file", [".ssh/id", "_notes", "zz.txt", "sub/zz.csv", "zz.parquet", "part-0.csv"])
def test_a_folder_with_a_file_that_no_run_has_written_is_left_as_it_is(
    file: str, partition_by: tuple[str, ...], scored_now: ScoreNow
) -> None:
    source = write("rides.parquet", rides(20))
    for earlier in (False, True):
        if earlier:
            scored_now("minutes", source, "home/", partition_by=partition_by)
        Path("home", file).parent.mkdir(parents=True, exist_ok=True)
        Path("home", file).write_bytes(Path(source).read_bytes() if file == "zz.parquet" else b"mine")
        before = _everything("home")
        with pytest.raises(TargetError, match=rf"home: .* holds no predictions: {file} (has|cannot be read)"):
            scored_now("minutes", source, "home/", partition_by=partition_by)
        assert _everything("home") == before
        Path("home", file).unlink()


@pytest.mark.parametrize("first", [(), ("zone",), ("model", "zone")])
@pytest.mark.parametrize("second", [(), ("zone",), ("zone", "model")])
def test_rows_of_a_folder_that_is_divided_otherwise_are_not_doubled(
    first: tuple[str, ...], second: tuple[str, ...], scored_now: ScoreNow
) -> None:
    source = write("rides.parquet", rides(20))
    scored_now("minutes", source, "out/", partition_by=first)
    if second and second != first:
        with pytest.raises(
            TargetError, match=r"out: .*part-0\.parquet is not in folders of --partition-by zone"
        ):
            scored_now("minutes", source, "out/", partition_by=second)
    else:
        scored_now("minutes", source, "out/", partition_by=second)
    assert len(pads.dataset("out", partitioning="hive").to_table()) == 20


@pytest.mark.parametrize("partition_by", [(), ("zone",)])
def test_a_file_that_a_killed_run_has_not_finished_is_replaced(
    partition_by: tuple[str, ...], scored_now: ScoreNow
) -> None:
    source = write("rides.parquet", rides(20))
    scored_now("minutes", source, "out/", partition_by=partition_by)
    file = next(Path("out").rglob("part-0.parquet"))
    file.write_bytes(file.read_bytes()[:-9])
    scored_now("minutes", source, "out/", partition_by=partition_by)
    assert len(pads.dataset("out", partitioning="hive").to_table()) == 20


def test_a_link_to_a_folder_is_refused(scored_now: ScoreNow) -> None:
    source = write("rides.parquet", rides(3))
    scored_now("minutes", source, "out/")
    Path("link").symlink_to("out")
    with pytest.raises(TargetError, match="link is a link"):
        scored_now("minutes", source, "link/")


def test_there_may_be_thousands_of_partitions(scored_now: ScoreNow) -> None:
    source = write("rides.parquet", [{**row, "zone": 100 + n} for n, row in enumerate(rides(1100))])
    assert scored_now("minutes", source, "out/", partition_by=("zone",)).written == 1100
    assert len(list(Path("out").glob("zone=*/part-0.parquet"))) == 1100


def test_hidden_files_of_a_source_are_not_read(scored_now: ScoreNow) -> None:
    Path("trips/_tmp").mkdir(parents=True)
    write("trips/0.parquet", rides(3))
    for name in ("_SUCCESS", ".0.parquet.crc", "_tmp/1.parquet"):
        Path("trips", name).write_text("")
    assert scored_now("minutes", "trips/", "out.parquet").read == 3
    Path("trips/0.parquet").unlink()
    with pytest.raises(JobError, match="there is no Parquet file in this folder"):
        scored_now("minutes", "trips/", "out.parquet")


def test_a_run_of_no_rows_leaves_a_folder_without_rows(scored_now: ScoreNow) -> None:
    for rows in ([], rides(3), []):
        table = pa.Table.from_pylist(rides(3)).slice(0, len(rows))
        pq.write_table(table, "rides.parquet")
        scored_now("minutes", "rides.parquet", "out/")
        assert pads.dataset("out").to_table()["id"].to_pylist() == [row["ride_id"] for row in rows]
