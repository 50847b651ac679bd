"""PostgreSQL read by ADBC: the values of psycopg, from every position on, or psycopg where they differ."""

from __future__ import annotations

import math
import time
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest

from eventml.deploy.batch import parse_location, sql_source
from eventml.deploy.batch.locations import SqlLocation
from eventml.deploy.batch.output_columns import as_list
from eventml.deploy.batch.sql_source import SqlSource
from eventml.errors import SourceError
from tests.databases import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventml.deploy.batch.chunks import RowChunk

pytest.importorskip("adbc_driver_postgresql")

KINDS = ["bool", "int2", "int4", "int8", "float8", "text", "varchar", "date", "timestamp"]
ROWS = [
    (
        "a",
        True,
        -32768,
        2**31 - 1,
        -(2**63),
        0.1,
        "é'\\ %s :x",
        "x",
        "2024-02-29",
        "2024-02-29 12:00:00.000001",
    ),
    ("b\\'%", False, 0, 0, 2**63 - 1, math.inf, "", "yy", "0001-01-01", "9999-12-31 23:59:59.999999"),
    ("c", None, None, None, None, None, None, None, None, None),
    ("C", True, 1, 1, 1, -0.0, "line\nline\t", "z", "9999-12-31", "0001-01-01"),
    (None, True, 1, 1, 1, 5e-324, "without an id", "z", "1969-12-31", "1969-12-31"),
    ("d", False, 1, 1, 1, 1e308, "\u2400", "z", "1970-01-01", "1970-01-01"),
]


@pytest.fixture
def place(postgres_url: str) -> str:
    with psycopg.connect(postgres_url) as connection:
        columns = ", ".join(f"{kind}_column {kind}" for kind in KINDS)
        connection.execute(f"CREATE TABLE rows (id text, {columns})")
        marks = ", ".join(["%s"] * (len(KINDS) + 1))
        connection.cursor().executemany(f"INSERT INTO rows VALUES ({marks})", ROWS)  # noqa: S608 - the test's own
        connection.execute(
            "CREATE TABLE large AS SELECT n AS id, n * 0.1::float8 AS x, repeat('x', 100) AS t "
            "FROM generate_series(1, 300000) AS n"
        )
    return postgres_url


def chunks(place: str, columns: list[str], rows: int, after: Any = None, **query: Any) -> Iterator[RowChunk]:
    location = parse_location(place, option="--from", **query)
    assert isinstance(location, SqlLocation)
    source = SqlSource(location, "id")
    with closing(source.chunks(columns, rows=rows, after=after)) as found:  # type: ignore[type-var]
        yield from found
    source.close()


def values(found: Iterator[RowChunk]) -> list[Any]:
    return [
        (repr(chunk.position) if len(chunk.ids) == 1 else "", *map(repr, row))
        for chunk in found
        for row in zip(as_list(chunk.ids), *map(as_list, chunk.columns.values()), strict=True)
    ]


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_values_and_positions_are_those_of_psycopg(
    place: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [f"{kind}_column" for kind in KINDS]
    of_query = {"query": "SELECT *, '%:x' AS t FROM rows WHERE id <> :one", "parameters": ("one=it's",)}
    jobs: list[tuple[str, dict[str, Any], Any]] = [(f"{place}#rows", {}, None), (place, of_query, None)]
    jobs += [(f"{place}#rows", {}, row[0]) for row in ROWS if row[0]]
    by_arrow = [list(chunks(source, columns, rows, after, **query)) for source, query, after in jobs]
    assert all(
        isinstance(chunk.ids, pa.Array) for found in by_arrow for chunk in found if None not in chunk.ids
    )
    monkeypatch.setattr(sql_source, "find_spec", lambda _: None)
    by_row = [list(chunks(source, columns, rows, after, **query)) for source, query, after in jobs]
    assert all(isinstance(chunk.ids, list) for found in by_row for chunk in found)
    assert [values(iter(found)) for found in by_arrow] == [values(iter(found)) for found in by_row]
    assert len(values(iter(by_arrow[0]))) == len(ROWS)


@pytest.mark.parametrize("kind", ["real", "numeric", "timestamptz", "time", "json", "uuid", "text[]"])
def test_types_that_arrow_would_change_are_read_by_psycopg(place: str, kind: str) -> None:
    query = f"SELECT id, NULL::{kind} AS other FROM rows"  # noqa: S608 - the test's own
    assert all(isinstance(chunk.ids, list) for chunk in chunks(place, ["other"], 9, query=query))
    assert isinstance(next(chunks(place, [], 9, query=query)).ids, pa.Array)


@pytest.mark.parametrize("text", ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"])
@pytest.mark.parametrize("kind", ["date", "timestamp"])
def test_times_that_python_cannot_hold_are_the_text_of_psycopg(
    place: str, kind: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(place) as connection:
        connection.execute(f"ALTER TABLE large ADD COLUMN at {kind} DEFAULT '2024-01-01'")
        connection.execute("UPDATE large SET at = %s WHERE id IN (290000, 300000)", (text,))
        connection.execute("INSERT INTO large VALUES (NULL, 1, 'x', %s)", (text,))
    found = list(chunks(f"{place}#large", ["at", "t"], 1000))
    assert isinstance(found[0].ids, pa.Array)
    assert isinstance(found[-1].ids, list)
    by_arrow = values(iter(found))
    monkeypatch.setattr(sql_source, "find_spec", lambda _: None)
    assert by_arrow == values(chunks(f"{place}#large", ["at", "t"], 1000))
    assert sum(text[:10] in row[2] for row in by_arrow) == 3


def test_the_server_is_that_of_a_url_with_several_hosts(place: str) -> None:
    server, _, name = place.partition("@")[2].partition("/")
    url = f"postgresql://scorer:{PASSWORD}@/{name}?host=127.0.0.1:1&host={server}&application_name=a%20b"
    first, *_ = chunks(f"{url}#rows", [], 99)
    assert isinstance(first.ids, pa.Array)


def test_a_server_that_ends_transactions_that_wait_ends_no_read(place: str) -> None:
    url = f"{place}?options=-c%20idle_in_transaction_session_timeout%3D100ms"
    found = chunks(f"{url}#large", ["x"], 1000)
    first = next(found)
    time.sleep(0.3)
    assert len(first) + sum(map(len, found)) == 300_000


def test_a_read_that_is_left_early_ends_at_once(place: str) -> None:
    found = chunks(f"{place}#large", ["x", "t"], 1000)
    assert [len(chunk.ids) for chunk in islice(found, 3)] == [1000, 1000, 1000]
    found.close()  # type: ignore[attr-defined]
    assert sum(len(chunk.ids) for chunk in chunks(f"{place}#large", ["x"], 4096, after=1000)) == 299_000


def test_it_is_read_only_and_its_errors_show_no_password(place: str) -> None:
    query = "SELECT id, 1 / (id - 5000) AS x FROM large"
    with pytest.raises(SourceError, match=r"cannot be read: .*division by zero") as raised:
        list(chunks(place, ["x"], 100, query=query))
    assert PASSWORD not in str(raised.value)
    with psycopg.connect(place) as connection:
        connection.execute(
            "CREATE FUNCTION spoil() RETURNS int LANGUAGE sql AS 'DELETE FROM rows RETURNING 1'"
        )
    with pytest.raises(SourceError, match="read-only transaction"):
        list(chunks(place, ["x"], 100, query="SELECT id, spoil() AS x FROM large"))
    assert len(list(chunks(f"{place}#rows", [], 1))) == len(ROWS)
