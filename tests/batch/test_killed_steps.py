"""A run that ends before any one of its steps on the disk: the next one gives what a whole run gives."""

from __future__ import annotations

import itertools
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from eventml.deploy.batch.file_target import FileTarget
from tests.batch.conftest import read, rides, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.batch.conftest import Row, ScoreNow


class Killed(BaseException):
    """The end of the process, which nothing may clean up after."""


@contextmanager
def killed_before(step: int) -> Iterator[None]:
    """End the run before a step that changes the disk."""
    steps = itertools.count()

    def patched(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if next(steps) >= step:
                raise Killed
            return function(*args, **options)

        return call

    def close(target: FileTarget) -> None:
        if hasattr(target, "_rejects"):
            target._rejects.close()
        target._folder.close(delete=False)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "unlink", "rmdir", "fsync"):
            patch.setattr(os, name, patched(getattr(os, name)))
        patch.setattr(FileTarget, "close", close)
        yield


def found(target: str) -> list[Row]:
    if target == "out/":
        rows = pads.dataset("out").to_table().to_pylist()
    elif target == "out.delta":
        deltalake: Any = pytest.importorskip("deltalake")
        table = deltalake.QueryBuilder().register("rows", deltalake.DeltaTable(target))
        rows = pa.table(table.execute("SELECT * FROM rows")).to_pylist()
    else:
        rows = read(target).rows
    return sorted(rows, key=lambda row: str(row["id"]))


@pytest.mark.parametrize("target", ["out.parquet", "out.csv", "out.jsonl", "out.delta", "out/"])
@pytest.mark.parametrize("rejected", [[], [13], [13] * 40], ids=["no rejects", "one", "only rejects"])
def test_a_run_that_ends_before_any_step_is_complete_when_it_is_run_again(
    target: str, rejected: list[int], scored_now: ScoreNow
) -> None:
    if target == "out.delta":
        pytest.importorskip("deltalake")
    options: dict[str, Any] = {"chunk": 20, "checkpoint": 0.0}
    for step in itertools.count():
        rows = rides(40, first=1000 * step)  # no run begins like another one
        for row, zone in zip(rows, rejected, strict=False):
            row["zone"] = zone
        write("rides.parquet", rows)
        try:
            with killed_before(step):
                scored_now("minutes", "rides.parquet", target, **options)
            break
        except Killed:
            pass
        summary = scored_now("minutes", "rides.parquet", target, **options)
        assert (summary.read, summary.rejected) == (40, len(rejected))
        ids = [row["ride_id"] for row in rows]
        assert [row["id"] for row in found(target)] == ids[len(rejected) :]
        file = Path(f"{target.rstrip('/')}.rejects.jsonl")
        rejects = file.read_text().splitlines() if rejected else []
        assert sorted(json.loads(line)["id"] for line in rejects) == ids[: len(rejected)]
        assert file.exists() is bool(rejected)
        assert not Path(f"{target.rstrip('/')}.eventml").exists()
    assert step > 10
