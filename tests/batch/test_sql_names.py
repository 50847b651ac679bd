"""Names, ids, outputs and texts that look like SQL: in every database they are names and values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import sqlalchemy as sa

from eventml import Bus
from eventml.deploy.batch import ScorePlan, ScoreSummary, parse_location, score
from eventml.errors import TargetError
from tests.batch.conftest import rides, write

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

NAMES = [
    'x"; DROP TABLE rides; --',
    "x'); DROP TABLE rides; --",
    '"',
    "select",
    "id = id OR 1=1",
    "%s %(x)s %% :x ? $1 {x}",
    "back\\slash `tick` [b]",
    "nёw\nline ☃ 名",
    "/* */ ; \u202e",
]
HUGE = 2**70


class Row(msgspec.Struct):
    id: Any
    text: str


bus = Bus("names")
bus.topic("rows", event_type=Row, id_field="id")


@bus.predictor("rows", to="answers")
def echo(rows: list[Row]) -> list[dict[str, str]]:
    """Return columns whose names are those of the first text."""
    return [dict.fromkeys(NAMES, row.text) for row in rows]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    found = "sqlite:///out.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    write(f"{found}#rides", rides(3))
    return str(found)


@pytest.fixture
def select(database: str) -> Callable[[sa.Select[Any]], list[dict[str, Any]]]:
    def run(statement: sa.Select[Any]) -> list[dict[str, Any]]:
        engine = sa.create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            found = [dict(row._mapping) for row in connection.execute(statement)]
        engine.dispose()
        return found

    return run


async def scored(source: str, target: str, **options: str) -> ScoreSummary:
    return await score(
        bus,
        ScorePlan(
            predictor="echo",
            source=parse_location(source, option="--from", query=options.pop("query", "")),
            target=parse_location(target, option="--to"),
            chunk=4,
        ),
    )


def rows_of(table: str, *columns: str) -> sa.Select[Any]:
    quoted: list[sa.ColumnClause[Any]] = [sa.column(sa.quoted_name(name, quote=True)) for name in columns]
    return sa.select(*quoted).select_from(sa.table(sa.quoted_name(table, quote=True), *quoted))


@pytest.mark.parametrize("table", NAMES)
async def test_the_names_of_tables_and_columns_are_only_names(
    table: str, database: str, select: Callable[[sa.Select[Any]], list[dict[str, Any]]]
) -> None:
    _write_lines([msgspec.json.encode({"id": name, "text": name}) for name in NAMES])
    for written in (len(NAMES), 0):
        assert (await scored("rows.jsonl", f"{database}#{table}")).written == written
    found = select(rows_of(table, "id", *NAMES))
    assert {row["id"]: row[NAMES[0]] for row in found} == dict(zip(NAMES, NAMES, strict=True))
    assert all(set(row.values()) == {row["id"]} for row in found)
    assert len(select(rows_of("rides", "ride_id"))) == 3


async def test_a_table_of_such_names_is_a_source(
    database: str, select: Callable[[sa.Select[Any]], list[dict[str, Any]]]
) -> None:
    _write_lines([msgspec.json.encode({"id": name, "text": name}) for name in NAMES])
    await scored("rows.jsonl", f"{database}#{NAMES[0]}")
    query = f'SELECT id, model AS text FROM "{NAMES[0].replace(chr(34), chr(34) * 2)}"'  # noqa: S608 - a test's own
    again = await scored(database, f"{database}#again", query=query)
    assert again.written == len(NAMES)
    assert sorted(row["id"] for row in select(rows_of("again", "id"))) == sorted(NAMES)


async def test_ids_and_texts_that_a_database_cannot_hold_cost_only_themselves(
    database: str, select: Callable[[sa.Select[Any]], list[dict[str, Any]]]
) -> None:
    rows = [
        {"id": "a", "text": "null \x00 here"},
        {"id": "null \x00 here", "text": "b"},
        {"id": HUGE, "text": "c"},
        *({"id": name, "text": name} for name in NAMES),
    ]
    _write_lines(list(map(msgspec.json.encode, rows)))
    for written in (1 + len(NAMES), 0):
        summary = await scored("rows.jsonl", f"{database}#answers")
        assert (summary.written, summary.rejected) == (written, 2)
    rejects = select(rows_of("answers_rejects", "id", "message"))
    assert {row["id"] for row in rejects} == {"null \\u0000 here", str(HUGE)}
    assert {row["message"] for row in rejects} == {
        "the row's id has a null character, or is an integer of over 64 bits"
    }
    [found] = [row for row in select(rows_of("answers", "id", NAMES[0])) if row["id"] == "a"]
    assert found[NAMES[0]] == "null \\u0000 here"


@pytest.mark.parametrize("table", ["a\x00b", "x" * 3000])
async def test_a_name_that_no_table_can_have_is_an_error(table: str, database: str) -> None:
    _write_lines([b'{"id": "a", "text": ""}'])
    if database.startswith("sqlite") and "\x00" not in table:
        pytest.skip("SQLite has names of any length")
    with pytest.raises(TargetError, match=r"cannot be written|longer than the 63 bytes"):
        await scored("rows.jsonl", f"{database}#{table}")


def _write_lines(lines: list[bytes]) -> None:
    Path("rows.jsonl").write_bytes(b"\n".join(lines))
