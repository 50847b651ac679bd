"""The target table exists, with types of its own: the first run fills it, and so does each later one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import sqlalchemy as sa

from eventml import Bus
from eventml.deploy.batch import ScorePlan, ScoreSummary, parse_location, score
from eventml.errors import TargetError
from tests.batch.conftest import folder  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.anyio

KEYS = ("id", "predictor", "model_version")
NAMES = "prediction_id text, predictor text, model text, model_version text"
WHEN = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)
UUID_1, UUID_2 = (f"12345678-1234-5678-1234-56781234567{n}" for n in "12")


class Answer(msgspec.Struct):
    whole: int = 7
    part: float = 0.1
    flag: bool = True
    text: str = "zone ☃"
    when: datetime = WHEN
    raw: bytes = b"\x00\xff"
    parts: tuple[int, int] = (1, 2)


TYPES = {
    "whole": ("smallint", "integer", "bigint", "numeric(12,2)", "double precision", "text", "jsonb"),
    "part": ("real", "double precision", "numeric", "text", "varchar(5)", "json"),
    "flag": ("boolean", "text", "jsonb"),
    "text": ("varchar(6)", "char(6)", "jsonb"),
    "when": ("timestamp", "timestamptz", "date", "text"),
    "raw": ("bytea", "text"),
    "parts": ("json", "jsonb", "text"),
}
"""PostgreSQL's types by field. The first ones are tried together, and so on."""


class Database:
    """One database, and jobs that write to its table `answers`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))

    def run(self, *statements: str) -> list[Any]:
        with self._engine.begin() as connection:
            found = [connection.exec_driver_sql(one) for one in statements][-1]
            return list(found.all()) if found.returns_rows else []

    def close(self) -> None:
        self._engine.dispose()

    async def score(self, source: str, handler: Callable[..., Any], **options: Any) -> ScoreSummary:
        bus = Bus("types")
        bus.predictor("events", to="answers", backoff=0.001, retries=0)(handler)
        plan = ScorePlan(
            predictor=handler.__name__,
            source=parse_location(source, option="--from"),
            target=parse_location(f"{self.url}#answers", option="--to"),
            id_column="id",
            **{"chunk": 2, **options},
        )
        return await score(bus, plan)


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    found = Database(postgres_url)
    yield found
    found.close()


@pytest.fixture(params=["postgres", "sqlite"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    postgres = request.param == "postgres"
    found = Database(request.getfixturevalue("postgres_url") if postgres else "sqlite:///out.db")
    yield found
    found.close()


def answer(events: list[dict[str, Any]]) -> list[Answer]:
    return [Answer() for _ in events]


def double(events: list[dict[str, Any]]) -> list[float]:
    return [0.5 for _ in events]


IDS = {
    "smallint": (1, -2),
    "integer": (1, 2),
    "bigint": (1, 2**60),
    "numeric": (1, 2),
    "uuid": (UUID_1, UUID_2),
    "text": ("a", "b'"),
    "varchar(9)": ("a", "007"),
    "date": ("2024-02-28", "2024-02-29"),
    "timestamptz": ("2024-02-28 01:00:00+00:00", "2024-02-29 01:00:00.5+00:00"),
    "zone": ("north", "south"),
}


@pytest.mark.parametrize("kind", IDS)
async def test_ids_of_any_type_are_scored_once_and_resumed(postgres: Database, kind: str) -> None:
    """The target has the source's type, or is created by the first run: both are found again."""
    postgres.run(
        "CREATE TYPE zone AS ENUM ('north', 'south', 'west')",
        f"CREATE TABLE events (id {kind} PRIMARY KEY)",
    )
    values = ", ".join(f"($t${one}$t$)" for one in IDS[kind])
    postgres.run(f"INSERT INTO events VALUES {values}")  # noqa: S608 - the test's own values
    created = f"CREATE TABLE answers (id {kind}, value real, {NAMES}, UNIQUE ({', '.join(KEYS)}))"
    for statement in (created, "DROP TABLE eventml_score"):
        postgres.run(statement)
        first = await postgres.score(f"{postgres.url}#events", double, chunk=1)
        again = await postgres.score(f"{postgres.url}#events", double, chunk=1)
        assert (first.written, first.rejected) == (2, 0)
        assert (again.written, again.unchanged, again.rejected) == (0, 2, 0)
        found = postgres.run("SELECT value FROM answers")
        assert [row[0] for row in found] == [0.5, 0.5]
        postgres.run("DROP TABLE answers")


@pytest.mark.parametrize("nth", range(7))
async def test_values_are_written_in_the_types_of_the_columns(postgres: Database, nth: int) -> None:
    types = {name: kinds[nth % len(kinds)] for name, kinds in TYPES.items()}
    postgres.run(
        f"CREATE TABLE answers (nr bigserial PRIMARY KEY, id uuid, {NAMES}, "
        + ", ".join(f'"{name}" {kind}' for name, kind in types.items())
        + ", added timestamptz NOT NULL DEFAULT now(), UNIQUE (model_version, predictor, id))",
    )
    lines = [msgspec.json.encode({"id": one}) for one in (UUID_1, UUID_2)]
    _write("events.jsonl", lines)
    summary = await postgres.score("events.jsonl", answer)
    assert (summary.written, summary.rejected) == (2, 0)
    assert (await postgres.score("events.jsonl", answer)).unchanged == 2
    [row] = postgres.run(
        'SELECT whole::float8, part::text::float8, flag::text, text::text, "when"::text, raw::text, '
        "parts::text FROM answers ORDER BY id LIMIT 1"
    )
    assert row[:2] == pytest.approx((7.0, 0.1))
    assert row[2] == "true"
    assert row[3] == ('"zone ☃"' if types["text"] == "jsonb" else "zone ☃")
    assert row[4].startswith("2024-02-29")
    assert row[5] == ("\\x00ff" if types["raw"] == "bytea" else "AP8=")
    assert msgspec.json.decode(row[6]) == [1, 2]
    [moment] = postgres.run('SELECT "when" FROM answers LIMIT 1')
    if types["when"].startswith("timestamp"):
        assert moment[0].replace(tzinfo=moment[0].tzinfo or UTC) == WHEN


async def test_a_column_that_holds_no_prediction_is_refused_before_the_model_is_called(
    postgres: Database,
) -> None:
    _write("events.jsonl", [b'{"id":1}'])
    for column, message in (
        ("value bigint", "'value' of the table holds integers"),
        ("value float8, owner text NOT NULL", "'owner' of the table is NOT NULL without a default"),
    ):
        postgres.run(
            "DROP TABLE IF EXISTS answers",
            f"CREATE TABLE answers (id bigint, {column}, {NAMES}, PRIMARY KEY ({', '.join(KEYS)}))",
        )
        with pytest.raises(TargetError, match=message):
            await postgres.score("events.jsonl", double)


@pytest.mark.parametrize("created", [True, False])
async def test_a_text_among_integer_ids_is_one_reject(database: Database, created: bool) -> None:
    """Also `007`, which an integer column would take for 7."""
    if created:
        kind = f"id bigint, value float, {NAMES}, PRIMARY KEY ({', '.join(KEYS)})"
        database.run(f"CREATE TABLE answers ({kind})")
    ids = [1, 7, "007", "x", 9, "10"]
    _write("events.jsonl", [msgspec.json.encode({"id": one}) for one in ids])
    summary = await database.score("events.jsonl", double)
    assert (summary.written, summary.rejected, summary.unchanged) == (4, 2, 0)
    again = await database.score("events.jsonl", double)
    assert (again.written, again.rejected, again.unchanged) == (0, 2, 4)
    assert [row[0] for row in database.run("SELECT id FROM answers ORDER BY id")] == [1, 7, 9, 10]
    rejects = database.run("SELECT id, message FROM answers_rejects ORDER BY id")
    assert [row[0] for row in rejects] == ["007", "x"]
    assert all("the ids in the target are integers" in row[1] for row in rejects)


async def test_sqlite_s_own_types_are_kept() -> None:
    database = Database("sqlite:///out.db")
    database.run(
        f"CREATE TABLE answers (nr INTEGER PRIMARY KEY, id VARCHAR(9), {NAMES}, whole REAL, part NUMERIC, "
        "flag BOOLEAN, text JSON, 'when' DATETIME, raw BLOB, parts JSON, note TEXT DEFAULT 'x' NOT NULL, "
        f"UNIQUE ({', '.join(KEYS)}))"
    )
    _write("events.jsonl", [b'{"id":1}', b'{"id":2}', b'{"id":"a"}'])
    assert (await database.score("events.jsonl", answer)).written == 3
    assert (await database.score("events.jsonl", answer)).unchanged == 3
    rows = database.run('SELECT id, whole, part, flag, text, "when", raw, parts, note FROM answers')
    database.close()
    assert [row[0] for row in rows] == ["1", "2", "a"]
    expected = (7.0, 0.1, 1, '"zone ☃"', "2024-02-29T12:00:00.123456Z", b"\x00\xff", "[1,2]", "x")
    assert [tuple(row[1:]) for row in rows] == [expected] * 3


def _write(path: str, lines: list[bytes]) -> None:
    with open(path, "wb") as stream:  # noqa: PTH123 - in the test's folder
        stream.write(b"\n".join(lines))
