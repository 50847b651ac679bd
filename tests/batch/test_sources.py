"""Sources: reading goes on behind every position, for each kind of source."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from eventml.deploy.batch.job import open_source
from eventml.deploy.batch.locations import parse_location
from eventml.deploy.batch.output_columns import as_list
from tests.batch.conftest import SOURCES, rides, write


@pytest.mark.parametrize("place", SOURCES)
@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_reading_goes_on_behind_every_position(place: str, size: int) -> None:
    write(place, rides(100))
    source = open_source(parse_location(place, option="--from"), "ride_id")
    wanted = ["ride_id", "distance"]

    def read(after: Any) -> list[Any]:
        chunks = list(source.chunks(wanted, rows=size, after=after))
        assert all(len(chunk) <= size for chunk in chunks)
        return [
            (msgspec.json.decode(msgspec.json.encode(chunk.position)), row)
            for chunk in chunks
            for row in chunk.lines or zip(*map(as_list, chunk.columns.values()), strict=True)
        ]

    whole = read(None)
    assert len(whole) == 100
    for position in {str(after): after for after, _ in whole}.values():
        behind = [row for after, row in whole[[a for a, _ in whole].index(position) :] if after != position]
        assert [row for _, row in read(position)] == behind
    source.close()


ID_TYPES = {
    "sqlite": ["BLOB", "TEXT", "INTEGER", "REAL", "DATE"],
    "postgresql": ["bytea", "text", "bigint", "numeric", "date", "timestamptz", "uuid"],
    "duckdb": ["BLOB", "VARCHAR", "BIGINT", "DECIMAL(9,2)", "DATE", "TIMESTAMP", "TIMESTAMPTZ", "UUID"],
}
VALUE: dict[str, Any] = {
    "bytea": lambda n: f"\\x{n:04}",
    "blob": lambda n: bytes.fromhex(f"{n:04}"),
    "text": lambda n: f"x{n:02}",
    "varchar": lambda n: f"x{n:02}",
    "date": lambda n: f"2024-01-{n:02}",
    "time": lambda n: f"2024-01-{n:02} 12:00:00+00",
    "uuid": lambda n: f"12345678-1234-5678-1234-5678123456{n:02}",
}


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize(("database", "kind"), [(name, kind) for name in ID_TYPES for kind in ID_TYPES[name]])
def test_reading_goes_on_behind_an_id_of_any_type(
    database: str, kind: str, request: pytest.FixtureRequest
) -> None:
    if database == "duckdb":
        pytest.importorskip("duckdb_sqlalchemy")
    url = f"{database}:///rows.db" if database != "postgresql" else request.getfixturevalue("postgres_url")
    value = next((one for name, one in VALUE.items() if kind.lower().startswith(name)), lambda n: n)
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE rows (id {kind}, n INTEGER)")
        insert = sa.text("INSERT INTO rows VALUES (:id, :n)").bindparams(
            sa.bindparam("id", type_=sa.types.NullType())
        )
        connection.execute(insert, [{"id": value(n), "n": n} for n in range(1, 25)])
    engine.dispose()
    source = open_source(parse_location(f"{url}#rows", option="--from"), "id")
    numbers: list[int] = []
    position = None
    for _ in range(4):
        [chunk, *_] = source.chunks(["n"], rows=6, after=position)
        numbers += as_list(chunk.columns["n"])
        position = msgspec.json.decode(msgspec.json.encode(chunk.position))
    assert numbers == list(range(1, 25))
    assert list(source.chunks(["n"], rows=6, after=position)) == []
    source.close()
