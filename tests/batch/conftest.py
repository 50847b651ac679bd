"""Rides in every kind of source, and reading every kind of target."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import anyio
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from eventml.deploy.batch import ScorePlan, ScoreSummary, parse_location, score

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
SOURCES = ("rides.parquet", "rides.csv", "rides.jsonl", "sqlite:///rides.db#rides")
TARGETS = ("out.parquet", "out.csv", "out.jsonl", "sqlite:///out.db#predictions")

Row = dict[str, Any]


class Scored(NamedTuple):
    """A target's predictions and rejects."""

    rows: list[Row]
    rejects: list[Row]

    @property
    def ids(self) -> list[str]:
        return sorted(str(row["id"]) for row in self.rows)


class Score(Protocol):
    async def __call__(self, predictor: str, source: str, target: str, **plan: Any) -> ScoreSummary: ...


ScoreNow: TypeAlias = Callable[..., ScoreSummary]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory without settings, from which the app can be imported."""
    for name in [name for name in os.environ if name.startswith("EVENTML_")]:
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("scored_app", None)


@pytest.fixture
def scored_now(scored: Score) -> ScoreNow:
    """Run a job in a synchronous test."""
    return lambda *places, **plan: anyio.run(partial(scored, *places, **plan))


@pytest.fixture
def scored() -> Score:
    """Run a job in this process."""

    async def run(predictor: str, source: str, target: str, query: str = "", **plan: Any) -> ScoreSummary:
        import scored_app  # type: ignore[import-not-found]  # noqa: PLC0415 - found on the path set above

        return await score(
            scored_app.bus,
            ScorePlan(
                predictor=predictor,
                source=parse_location(source, option="--from", query=query),
                target=parse_location(target, option="--to"),
                **plan,
            ),
        )

    return run


def rides(count: int, *, first: int = 0) -> list[Row]:
    """Rides without a zone that is rejected or has no output."""
    return [
        {
            "ride_id": f"r-{number:07d}",
            "zone": 20 + number % 200,
            "distance": number * 0.37 + 0.1,
            "passengers": None if number % 7 == 0 else number % 4,
        }
        for number in range(first, first + count)
    ]


def write(place: str, rows: Sequence[Row]) -> str:
    """Write rows to a source, replacing what was there."""
    if "://" in place:
        url, _, name = place.partition("#")
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        table = sa.Table(
            name,
            sa.MetaData(),
            sa.Column("ride_id", sa.Text, primary_key=True),
            sa.Column("zone", sa.Integer),
            sa.Column("distance", sa.Double),
            sa.Column("passengers", sa.Integer),
        )
        table.drop(engine, checkfirst=True)
        table.create(engine)
        with engine.begin() as connection:
            connection.execute(sa.insert(table), list(rows))
        engine.dispose()
        return place
    path = Path(place)
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return place
    found = pa.Table.from_pylist(list(rows))
    if path.suffix == ".csv":
        pc.write_csv(found, path)
    else:
        pq.write_table(found, path, row_group_size=max(len(rows) // 3, 1))
    return place


def read(place: str) -> Scored:
    """Read a target back."""
    if "://" in place:
        url, _, name = place.partition("#")
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            found = [
                [dict(row._mapping) for row in connection.execute(sa.text(f'SELECT * FROM "{one}"'))]  # noqa: S608 - a test's own
                for one in (name, f"{name}_rejects")
            ]
        engine.dispose()
        return Scored(*found)
    path = Path(place)
    rejects = path.with_name(f"{path.name}.rejects.jsonl")
    bad = [json.loads(line) for line in rejects.read_text().splitlines()] if rejects.exists() else []
    if path.suffix == ".delta":
        deltalake: Any = pytest.importorskip("deltalake")
        files = deltalake.DeltaTable(place).file_uris()
        table = pads.dataset(files, partitioning="hive", partition_base_dir=str(path.absolute())).to_table()
        return Scored(table.sort_by("id").to_pylist(), bad)
    if path.suffix == ".parquet":
        return Scored(pq.read_table(path).to_pylist(), bad)
    if path.suffix == ".csv":
        return Scored(pc.read_csv(path).to_pylist(), bad)
    return Scored([json.loads(line) for line in path.read_text().splitlines()], bad)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a SQLite file as another process would."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()
