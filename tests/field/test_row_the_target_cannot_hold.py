"""One prediction does not fit into the target: it is rejected with the reason, and the others are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.batch.chunks import bisect_rows
from eventml.errors import TargetError
from tests.batch.conftest import folder, read  # noqa: F401 - a fixture
from tests.field.test_table_has_own_types import KEYS, NAMES, Database, postgres  # noqa: F401

if TYPE_CHECKING:
    from eventml.deploy.batch import ScoreSummary

pytestmark = pytest.mark.anyio

BAD = 5
ROWS = 9


def write_rows() -> str:
    Path("events.jsonl").write_text("".join(f'{{"id":{n}}}\n' for n in range(ROWS)))
    return "events.jsonl"


async def score_with(database: Database, bad: Any, **options: Any) -> ScoreSummary:
    """Score rows whose outputs are all the same, but for one."""

    def check(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        good = {"whole": 1, "text": "ok", "part": 0.5}
        return [{**good, **bad} if event["id"] == BAD else good for event in events]

    return await database.score(write_rows(), check, **options)


COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "beyond 64 bits": ({"whole": 2**70}, "whole bigint, text text, part float"),
    "too small a column": ({"whole": 70_000}, "whole smallint, text text, part float"),
    "too long": ({"text": "longer"}, "whole bigint, text varchar(2), part float"),
    "NOT NULL": ({"text": None}, "whole bigint, text text NOT NULL, part float"),
    "CHECK": ({"part": -1.0}, "whole bigint, text text, part float CHECK (part > 0)"),
    "UNIQUE": ({"part": None}, "whole bigint, text text, part float, extra int UNIQUE"),
    "enum": ({"text": "no"}, "whole bigint, text mood, part float"),
    "no date": ({"text": "no"}, "whole bigint, text date, part float"),
    "deferred": (
        {"part": 1.5},
        "whole bigint, text text, part float REFERENCES parts DEFERRABLE INITIALLY DEFERRED",
    ),
    "trigger": ({"text": "no"}, "whole bigint, text text, part float"),
}


@pytest.mark.parametrize("case", COLUMNS)
async def test_one_row_is_rejected_by_a_table(postgres: Database, case: str) -> None:  # noqa: F811
    bad, columns = COLUMNS[case]
    postgres.run(
        "CREATE TYPE mood AS ENUM ('ok')",
        "CREATE TABLE parts (part float PRIMARY KEY)",
        "INSERT INTO parts VALUES (0.5)",
        f"CREATE TABLE answers (id bigint, {columns}, {NAMES}, PRIMARY KEY ({', '.join(KEYS)}))",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.text = 'no' THEN RAISE 'not this one'; END IF; RETURN NEW; END $$",
    )
    if case == "trigger":
        postgres.run("CREATE TRIGGER no BEFORE INSERT ON answers FOR EACH ROW EXECUTE FUNCTION refuse()")
    if case == "no date":
        bad, good = {"text": "2024-02-30"}, "2024-02-29"
        postgres.run("ALTER TABLE answers ALTER text TYPE text")
    if case == "UNIQUE":
        postgres.run("ALTER TABLE answers DROP extra, ADD UNIQUE (whole)")
        bad = {}

        def number(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
            rows = [{"whole": e["id"], "text": "ok", "part": 0.5} for e in events]
            return [{**row, "whole": 1} if row["whole"] == BAD else row for row in rows]

        summary = await postgres.score(write_rows(), number)
    elif case == "no date":
        postgres.run("ALTER TABLE answers ALTER text TYPE date USING text::date")

        def date(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
            texts = [bad["text"] if event["id"] == BAD else good for event in events]
            return [{"whole": 1, "text": text, "part": 0.5} for text in texts]

        summary = await postgres.score(write_rows(), date)
    else:
        summary = await score_with(postgres, bad)
    assert (summary.written, summary.rejected) == (ROWS - 1, 1)
    found = [row[0] for row in postgres.run("SELECT id FROM answers ORDER BY id")]
    assert found == [number for number in range(ROWS) if number != BAD]
    [reject] = postgres.run("SELECT id, exception, message, row FROM answers_rejects")
    assert reject[:2] == (str(BAD), "TargetError")
    assert len(reject[2]) > len(postgres.url.rpartition("@")[2])
    assert json.loads(reject[3]) == {"id": BAD}


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize(
    ("bad", "column"),
    [
        ({"whole": 2**70}, "whole bigint"),
        ({"text": None}, "text text NOT NULL"),
        ({"part": -1.0}, "part float CHECK (part > 0)"),
        ({"whole": 1.5}, "whole bigint"),
        ({"part": [1]}, "part float"),
    ],
)
async def test_one_row_is_rejected_by_sqlite(bad: dict[str, Any], column: str, chunk: int) -> None:
    database = Database("sqlite:///out.db")
    columns = {"whole": "whole bigint", "text": "text text", "part": "part float"}
    columns[next(iter(bad))] = column
    database.run(
        f"CREATE TABLE answers (id bigint, {', '.join(columns.values())}, {NAMES}, PRIMARY KEY "
        f"({', '.join(KEYS)}))"
    )
    mixed = bad in ({"whole": 1.5}, {"part": [1]})  # the whole chunk decides on the kind of a column
    summary = await score_with(database, bad, chunk=chunk)
    assert (summary.read, summary.written + summary.rejected) == (ROWS, ROWS)
    if not mixed or chunk == 1:
        assert (summary.written, summary.rejected) == (ROWS - 1, 1)
        assert [row[0] for row in database.run("SELECT id FROM answers_rejects")] == [str(BAD)]
    again = await score_with(database, bad, chunk=chunk)
    assert (again.written, again.unchanged) == (0, summary.written)
    database.close()


@pytest.mark.parametrize("file", ["out.parquet", "out.csv", "out.jsonl"])
async def test_one_row_is_rejected_by_a_file(file: str) -> None:
    from eventml import Bus  # noqa: PLC0415
    from eventml.deploy import batch  # noqa: PLC0415

    bus = Bus("files")

    @bus.predictor("events", to="answers", backoff=0.001, retries=0)
    def answer(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        odd: dict[int, dict[str, Any]] = {
            1: {"whole": 2**70},
            3: {"text": "\ud800"},
            5: {"part": "x"},
            7: {"other": 1},
        }
        good = {"whole": 1, "text": "ok", "part": 0.5}
        rows = [{**good, **odd.get(event["id"], {})} for event in events]
        return [row if "other" not in row else {"other": 1} for row in rows]

    plan = batch.ScorePlan(
        predictor="answer",
        source=batch.parse_location(write_rows(), option="--from"),
        target=batch.parse_location(file, option="--to"),
        id_column="id",
        chunk=4,
    )
    summary = await batch.score(bus, plan)
    assert (summary.written, summary.rejected) == (5, 4)
    found = read(file)
    assert found.ids == ["0", "2", "4", "6", "8"]
    assert sorted(row["id"] for row in found.rejects) == ["1", "3", "5", "7"]


async def test_a_target_that_fails_rejects_nothing(postgres: Database) -> None:  # noqa: F811
    """A missing permission, or a server that ends the connection, fails the job: the next run resumes."""
    await score_with(postgres, {})
    postgres.run(
        "TRUNCATE answers",
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NEW.id = {BAD} THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NEW; END $$",
        "CREATE TRIGGER cut BEFORE INSERT ON answers FOR EACH ROW EXECUTE FUNCTION cut()",
    )
    with pytest.raises(TargetError, match="terminat"):
        await score_with(postgres, {}, chunk=2)
    assert postgres.run("SELECT count(*) FROM answers_rejects")[0][0] == 0
    postgres.run("DROP TRIGGER cut ON answers")
    summary = await score_with(postgres, {}, chunk=2)
    assert (summary.written + summary.unchanged, summary.rejected) == (ROWS, 0)


@given(st.sets(st.integers(0, 40)), st.integers(0, 40))
def test_exactly_the_invalid_rows_fail_alone(bad: set[int], size: int) -> None:
    calls: list[tuple[int, int]] = []

    def call(start: int, stop: int) -> range:
        calls.append((start, stop))
        if bad & set(range(start, stop)):
            raise ValueError(start)
        return range(start, stop)

    parts, errors = bisect_rows(size, call, ValueError)
    assert [number for part in parts for number in part] == [n for n in range(size) if n not in bad]
    assert set(errors) == {n for n in bad if n < size}
    assert len(calls) <= 1 + 2 * 7 * len(errors)


def test_an_error_of_another_kind_is_not_bisected() -> None:
    calls = []

    def call(start: int, stop: int) -> None:
        calls.append(start)
        raise KeyError(stop)

    with pytest.raises(KeyError):
        bisect_rows(9, call, ValueError)
    assert calls == [0]
