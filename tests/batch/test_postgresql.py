"""PostgreSQL as source and as target, on a real server."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa

from eventml import Bus
from eventml.deploy.batch import ScorePlan, parse_location, score
from eventml.deploy.batch.chunks import Checkpoint, RunIdentity
from eventml.deploy.batch.locations import SqlLocation
from eventml.deploy.batch.output_columns import single_column
from eventml.deploy.batch.sql_target import SqlTarget
from eventml.errors import SourceError, TargetError
from tests.batch.conftest import read, rides, write
from tests.databases import PASSWORD

if TYPE_CHECKING:
    from tests.batch.conftest import Score

pytestmark = pytest.mark.anyio


class Event(msgspec.Struct):
    id: UUID
    price: float
    precise: Decimal
    when: datetime
    text: str
    flag: bool
    maybe: float | None = None


class Answer(msgspec.Struct):
    price: float
    precise: Decimal
    when: datetime
    flag: bool
    text: str
    parts: list[int]
    maybe: float | None


async def test_parameters_have_the_types_of_what_they_are_compared_with(
    postgres_url: str, scored: Score
) -> None:
    write(f"{postgres_url}#rides", rides(100))
    day = "SELECT *, TIMESTAMP '2024-01-01' + zone * INTERVAL '1 day' AS day, '1:2'::text AS t FROM rides"
    query = f"SELECT * FROM ({day}) AS days WHERE day >= :start AND day < :end"  # noqa: S608 - our own
    given = ("start=2024-02-01T00:00:00+00:00", "end=2024-02-03")
    place = parse_location(postgres_url, option="--from", query=query, parameters=given)
    import scored_app  # type: ignore[import-not-found]  # noqa: PLC0415 - found on a path set by a fixture

    await score(
        scored_app.bus,
        ScorePlan(predictor="minutes", source=place, target=parse_location("o.csv", option="--to")),
    )
    assert [row["zone"] for row in read("o.csv").rows] == [31, 32]


@pytest.mark.parametrize("target", ["postgres", "sqlite:///out.db#predictions", "out.parquet"])
async def test_each_row_is_written_once(postgres_url: str, target: str, scored: Score) -> None:
    rows = rides(1000)
    rows[7]["zone"] = 13
    source = write(f"{postgres_url}#rides", rows)
    target = f"{postgres_url}#predictions" if target == "postgres" else target
    first = await scored("minutes", source, target, chunk=64)
    again = await scored("minutes", source, target, chunk=64)
    assert (first.written, first.rejected) == (999, 1)
    assert (again.written, again.unchanged) == ((0, 999) if "://" in target else (999, 0))
    found = read(target)
    assert {row["id"]: row["minutes"] for row in found.rows} == {
        row["ride_id"]: row["distance"] * 2.1 for row in rows if row["zone"] != 13
    }
    assert [row["id"] for row in found.rejects] == [rows[7]["ride_id"]]
    assert PASSWORD not in f"{first}{again}"


async def test_runs_that_begin_at_once_create_the_tables_once(postgres_url: str) -> None:
    location = parse_location(f"{postgres_url}#predictions", option="--to")
    assert isinstance(location, SqlLocation)
    run = RunIdentity("minutes", "doubling", "v1", "rides.csv", "", "ride_id")
    targets = [SqlTarget(location) for _ in range(8)]
    at_once = threading.Barrier(len(targets))

    def begin(target: SqlTarget) -> Checkpoint:
        at_once.wait(30)
        return target.begin(run, single_column("float"))

    with ExitStack() as stack:
        for target in targets:
            stack.callback(target.close)
        threads = stack.enter_context(ThreadPoolExecutor(len(targets)))
        assert [one.position for one in threads.map(begin, targets)] == [None] * len(targets)


async def test_every_kind_of_predictor_writes_to_it(postgres_url: str, scored: Score) -> None:
    write("rides.parquet", rides(300))
    expected = {row["ride_id"]: row["distance"] * 2.1 for row in rides(300)}
    for predictor in ("array", "frame", "single"):
        target = f"{postgres_url}#{predictor}"
        await scored(predictor, "rides.parquet", target, chunk=100)
        assert {row["id"]: row["value"] for row in read(target).rows} == expected


async def test_the_types_of_a_database_lose_nothing(postgres_url: str) -> None:
    bus = Bus("types")
    seen: list[Event] = []

    @bus.predictor("events", to="answers")
    def echo(events: list[Event]) -> list[Answer]:
        seen.extend(events)
        return [Answer(e.price, e.precise, e.when, e.flag, e.text, [1, 2], e.maybe) for e in events]

    number = UUID("12345678-1234-5678-1234-567812345678")
    when = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)
    engine = sa.create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE events (id uuid PRIMARY KEY, price numeric, precise numeric(30, 20), "
            '"when" timestamptz, text text, flag boolean, maybe real)'
        )
        connection.exec_driver_sql(
            "INSERT INTO events VALUES (%s, 0.1, 1.00000000000000000001, %s, %s, true, 0.1)",
            (number, when, "null \u2400 and 'quotes' %s :x"),
        )
        connection.exec_driver_sql(
            "INSERT INTO events SELECT gen_random_uuid(), 2, 3, now(), 'x', false FROM generate_series(1, 99)"
        )
    plan = ScorePlan(
        predictor="echo",
        source=parse_location(f"{postgres_url}#events", option="--from"),
        target=parse_location(f"{postgres_url}#answers", option="--to"),
        id_column="id",
        chunk=7,
    )
    summary = await score(bus, plan)
    assert (summary.written, summary.rejected) == (100, 0)
    [event] = [event for event in seen if event.id == number]
    assert (event.price, event.precise, event.when) == (0.1, Decimal("1.00000000000000000001"), when)
    assert event.maybe == 0.1
    with engine.connect() as connection:
        row: Any = connection.execute(
            sa.text("SELECT * FROM answers WHERE id = :id"), {"id": str(number)}
        ).one()
    engine.dispose()
    assert row.price == 0.1
    assert row.precise == "1.00000000000000000001"
    assert row.when == "2024-02-29T12:00:00.123456Z"
    assert (row.flag, row.parts, row.text) == (True, "[1,2]", "null \u2400 and 'quotes' %s :x")


async def test_a_query_a_schema_and_names_that_must_be_quoted(postgres_url: str, scored: Score) -> None:
    write(f"{postgres_url}#rides", rides(100))
    engine = sa.create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql('CREATE SCHEMA "My schema"')
        connection.exec_driver_sql('CREATE TABLE "My schema"."Rides ""1""" AS TABLE rides')
    engine.dispose()
    query = "SELECT *, zone::text || ':x' AS odd, '50%' AS share FROM rides WHERE zone < 40"
    asked = await scored("array", postgres_url, "asked.parquet", query=query, chunk=7)
    quoted = await scored(
        "array", f'{postgres_url}#My schema.Rides "1"', f'{postgres_url}#My schema.Out "1"', chunk=7
    )
    assert (asked.written, quoted.written) == (20, 100)


async def test_the_source_is_read_only(postgres_url: str, scored: Score) -> None:
    write(f"{postgres_url}#rides", rides(3))
    query = "WITH gone AS (DELETE FROM rides RETURNING *) SELECT * FROM gone"
    with pytest.raises(SourceError):
        await scored("minutes", postgres_url, "out.parquet", query=query)
    assert (await scored("minutes", f"{postgres_url}#rides", "out.parquet")).written == 3


async def test_errors_do_not_show_the_password(
    postgres_url: str, scored: Score, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    write("rides.parquet", rides(3))
    nowhere = postgres_url.rpartition("/")[0] + "/nowhere"
    closed = f"postgresql://scorer:{PASSWORD}@127.0.0.1:1/x"
    wrong = postgres_url.replace(PASSWORD, f"{PASSWORD}2")
    for url in (nowhere, closed, wrong):
        with pytest.raises(SourceError) as source:
            await scored("minutes", f"{url}#rides", "out.parquet")
        with pytest.raises(TargetError) as target:
            await scored("minutes", "rides.parquet", f"{url}#predictions")
        for error in (source.value, target.value):
            assert PASSWORD not in str(error)
            assert "scorer:***@127.0.0.1" in str(error)
    assert PASSWORD not in caplog.text


async def test_a_run_whose_connection_breaks_is_resumed(postgres_url: str, scored: Score) -> None:
    source = write(f"{postgres_url}#rides", rides(2000))
    engine = sa.create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        # The 700th row ends the connection that writes it, as a server that fails over would.
        connection.exec_driver_sql("CREATE TABLE told (n int)")
    await scored("array", source, f"{postgres_url}#predictions", chunk=100)
    with engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE predictions")
        connection.exec_driver_sql(
            "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF NEW.id = 'r-0000700' AND EXISTS (SELECT FROM told) "
            "THEN PERFORM pg_terminate_backend(pg_backend_pid()); "
            "END IF; RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER cut BEFORE INSERT ON predictions FOR EACH ROW EXECUTE FUNCTION cut()"
        )
        connection.exec_driver_sql("INSERT INTO told VALUES (1)")
    with pytest.raises(TargetError, match="terminat"):
        await scored("array", source, f"{postgres_url}#predictions", chunk=100)
    assert len(read(f"{postgres_url}#predictions").rows) == 700
    with engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE told")
    engine.dispose()
    summary = await scored("array", source, f"{postgres_url}#predictions", chunk=100)
    assert (summary.resumed, summary.written) == (700, 2000)
    assert read(f"{postgres_url}#predictions").ids == [row["ride_id"] for row in rides(2000)]
