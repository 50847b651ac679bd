"""A file target: one row for each prediction, and the file of the last finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventml.deploy.batch.chunks import RunIdentity, ScoredChunk
from eventml.deploy.batch.file_target import FileTarget
from eventml.deploy.batch.locations import FORMATS, FileLocation
from eventml.deploy.batch.output_columns import single_column
from eventml.errors import TargetError
from tests.batch.conftest import read, rides, write

if TYPE_CHECKING:
    from tests.batch.conftest import Score, ScoreNow

FILES = ("out.parquet", "out.csv", "out.jsonl")
RUN = RunIdentity("predict", "", "", "rides.csv", "1", "ride_id")

id_chunks = st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=8)


def chunk_of(position: int, ids: list[Any], value: float = 1.0) -> ScoredChunk:
    return ScoredChunk(
        position=position,
        ids=ids,
        columns=[[value] * len(ids)],
        schema=single_column("float"),
        rejected=[],
        read=len(ids),
        known=0,
        no_output=[],
        done=position,
        row=str,
    )


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("every", [0.0, 1e9])
@pytest.mark.parametrize("text", [True, False])
def test_each_row_is_written_once_though_the_first_run_failed(file: str, every: float, text: bool) -> None:
    @settings(max_examples=20, deadline=None)
    @given(id_chunks, st.integers(0, 8))
    def check(chunks: list[list[int]], killed_after: int) -> None:
        Path(file).unlink(missing_ok=True)
        ids: list[list[Any]] = [[f"{one:03}" for one in chunk] if text else list(chunk) for chunk in chunks]
        first = FileTarget(FileLocation(Path(file), FORMATS[Path(file).suffix]), every=every)
        first.begin(RUN, None)
        for position, chunk in enumerate(ids[:killed_after], 1):
            first.write(chunk_of(position, chunk))
        first.close()  # without `finish`, as a run that failed
        target = FileTarget(FileLocation(Path(file), FORMATS[Path(file).suffix]), every=every)
        checkpoint = target.begin(RUN, None)
        done, counts = checkpoint.position or 0, checkpoint.counts
        for position, chunk in enumerate(ids[done:], done + 1):
            counts = target.write(chunk_of(position, chunk))
        target.finish()
        target.close()
        written = [one for chunk in ids for one in chunk]
        assert counts.read == counts.written == len(written)
        assert [str(row["id"]).zfill(3) for row in read(file).rows] == [str(one).zfill(3) for one in written]

    check()


@pytest.mark.anyio
@pytest.mark.parametrize("file", FILES)
async def test_a_finished_run_replaces_the_file_of_an_earlier_one(
    file: str, scored: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rides(100)
    rows[3]["zone"] = 13
    await scored("minutes", write("rides.parquet", rows), file, chunk=30)
    assert len(read(file).rejects) == 1
    monkeypatch.setenv("MODEL_VERSION", "v2")
    again = await scored("minutes", write("rides.parquet", rides(50)), file, chunk=30)
    assert (again.written, again.unchanged, again.resumed) == (50, 0, 0)
    found = read(file)
    assert found.ids == [row["ride_id"] for row in rides(50)]
    assert {row["model_version"] for row in found.rows} == {"v2"}
    assert found.rejects == []


@pytest.mark.anyio
@pytest.mark.parametrize("file", FILES)
async def test_a_run_that_fails_leaves_the_file_as_it_was(file: str, scored: Score, folder: Path) -> None:
    await scored("array", write("rides.parquet", rides(20)), file)
    before = (folder / file).read_bytes()
    rows = rides(40)
    rows[30]["zone"] = 13
    with pytest.raises(Exception, match="--max-rejects allows 0"):
        await scored("minutes", write("rides.parquet", rows), file, chunk=10, max_rejects=0)
    assert (folder / file).read_bytes() == before


@pytest.mark.anyio
async def test_an_empty_file_has_the_columns_of_the_output(scored: Score) -> None:
    pq.write_table(pa.Table.from_pylist(rides(1)).slice(0, 0), "rides.parquet")
    await scored("minutes", "rides.parquet", "out.parquet")
    schema = pq.read_schema("out.parquet")
    assert (schema.field("minutes").type, schema.field("zone").type) == (pa.float64(), pa.int64())


@pytest.mark.parametrize("data", [b"nothing of the kind", b"\xff\xfe{"])
@pytest.mark.parametrize("file", ["out.parquet", "out.jsonl"])
def test_a_file_that_cannot_be_read_is_not_replaced(file: str, data: bytes) -> None:
    Path(file).write_bytes(data)
    with pytest.raises(TargetError, match="the file exists and holds no predictions"):
        FileTarget(FileLocation(Path(file), FORMATS[Path(file).suffix]), every=1.0)
    assert Path(file).read_bytes() == data


def test_outputs_of_other_fields_than_in_an_earlier_part_are_refused(folder: Path) -> None:
    location = FileLocation(folder / "out.parquet", "parquet")
    first = FileTarget(location, every=0.0)
    first.begin(RUN, None)
    first.write(chunk_of(1, [1, 2]))
    first.close()
    second = FileTarget(location, every=0.0)
    assert second.begin(RUN, None).position == 1
    chunk = chunk_of(2, [3])
    chunk.schema = (msgspec.structs.replace(single_column("float")[0], name="other"),)
    with pytest.raises(TargetError, match=r"other fields than before: .*Annotate its output's type"):
        second.write(chunk)
    second.close()


def test_targets_that_differ_in_their_suffix_alone_have_rejects_of_their_own(scored_now: ScoreNow) -> None:
    rows = rides(len(FILES) + 1)
    for file, row in zip(FILES, rows, strict=False):
        bad = [{**one, "zone": 13} if one is row else one for one in rows]
        summary = scored_now("minutes", write("rides.parquet", bad), file)
        assert summary.rejects == f"{file}.rejects.jsonl"
    for file, row in zip(FILES, rows, strict=False):
        assert [one["id"] for one in read(file).rejects] == [row["ride_id"]]
