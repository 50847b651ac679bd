"""A job that runs again, as one does every night: rows that have changed, new ones, and a new model."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from eventml.deploy.batch import sql_tables, sql_target
from eventml.deploy.batch.sql_target import SqlTarget
from eventml.errors import ConfigError, TargetError
from tests.batch.conftest import TARGETS, ScoreNow, read, rides, write

if TYPE_CHECKING:
    from eventml.deploy.batch import ScoreSummary
    from eventml.deploy.batch.chunks import RowCounts, ScoredChunk

TABLE = "sqlite:///out.db#predictions"
NO_OUTPUT, REJECTED, SCORED = 15, 13, 20  # zones


def counts(summary: ScoreSummary) -> tuple[int, int, int]:
    """How many predictions are new, changed and unchanged."""
    return summary.written - summary.changed, summary.changed, summary.unchanged


def run_sql(url: str, statement: str) -> None:
    engine = sa.create_engine(url.partition("#")[0].replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql", "any other database"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A target of each kind of database."""
    if request.param == "postgresql":
        return f"{request.getfixturevalue('postgres_url')}#predictions"
    if request.param != "sqlite":
        open_engine = sql_tables.open_engine

        def open_portable(*args: Any, **options: Any) -> sa.Engine:
            engine = open_engine(*args, **options)
            engine.dialect.name = "portable"
            return engine

        monkeypatch.setattr(sql_target, "open_engine", open_portable)
    return TABLE


def test_what_has_changed_is_scored_again(table: str, scored_now: ScoreNow) -> None:
    rows = rides(50)
    scored_now("minutes", write("rides.parquet", rows), table, chunk=16)
    rows[3]["distance"] = 100.0
    rows[40]["zone"] = 99
    rows += rides(5, first=100)
    again = scored_now("minutes", write("rides.parquet", rows), table, chunk=16)
    assert counts(again) == (5, 2, 48)
    found = {row["id"]: (row["minutes"], row["zone"]) for row in read(table).rows}
    assert found == {row["ride_id"]: (row["distance"] * 2.1, row["zone"]) for row in rows}
    assert counts(scored_now("minutes", "rides.parquet", table, chunk=16)) == (0, 0, 55)


def test_only_new_rows_are_scored_if_that_is_wanted(table: str, scored_now: ScoreNow) -> None:
    rows = rides(50)
    scored_now("minutes", write("rides.parquet", rows), table)
    changed = [{**row, "distance": 7.0} for row in rows]
    write("rides.parquet", [*changed, *rides(5, first=100)])
    again = scored_now("minutes", "rides.parquet", table, chunk=16, only_new=True)
    assert counts(again) == (5, 0, 50)
    found = {row["id"]: row["minutes"] for row in read(table).rows}
    assert found == {row["ride_id"]: row["distance"] * 2.1 for row in [*rows, *rides(5, first=100)]}


STEPS = st.lists(
    st.tuples(
        st.dictionaries(
            st.integers(0, 9),
            st.tuples(st.integers(0, 2), st.sampled_from([SCORED, NO_OUTPUT, REJECTED])),
            min_size=1,
        ),
        st.sampled_from(["v1", "v2"]),
        st.booleans(),
        st.integers(1, 12),
    ),
    min_size=2,
    max_size=4,
)


def test_a_table_has_what_the_runs_say(
    table: str, scored_now: ScoreNow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row for each id and model version: that of the last run which scored the row."""

    @settings(max_examples=15, deadline=None)
    @given(STEPS)
    def check(steps: list[tuple[dict[int, tuple[int, int]], str, bool, int]]) -> None:
        run_sql(table, "DELETE FROM predictions")
        expected: dict[tuple[str, str], float] = {}
        for rows, version, only_new, chunk in steps:
            monkeypatch.setenv("MODEL_VERSION", version)
            new = changed = unchanged = none = rejected = 0
            for number, (distance, zone) in rows.items():
                key, value = (f"r-{number}", version), distance * 2.1
                if only_new and key in expected:
                    unchanged += 1
                elif zone == NO_OUTPUT:
                    none += 1
                    expected.pop(key, None)
                elif zone == REJECTED:
                    rejected += 1
                else:
                    new += key not in expected
                    changed += expected.get(key, value) != value
                    unchanged += expected.get(key) == value
                    expected[key] = value
            source = [
                {"ride_id": f"r-{number}", "zone": zone, "distance": float(distance), "passengers": None}
                for number, (distance, zone) in rows.items()
            ]
            write("rides.parquet", source)
            summary = scored_now("minutes", "rides.parquet", table, chunk=chunk, only_new=only_new)
            assert summary.read == len(rows)
            assert counts(summary) == (new, changed, unchanged)
            assert (summary.no_output, summary.rejected) == (none, rejected)
            found = [(row["id"], row["model_version"], row["minutes"]) for row in read(table).rows]
            assert len(found) == len(expected)
            assert {(one, version): value for one, version, value in found} == expected

    scored_now("minutes", write("rides.parquet", rides(1)), table)  # creates the table
    check()


def test_a_rejected_row_keeps_its_earlier_prediction(table: str, scored_now: ScoreNow) -> None:
    rows = rides(3)
    scored_now("minutes", write("rides.parquet", rows), table)
    rows[1]["zone"] = REJECTED
    again = scored_now("minutes", write("rides.parquet", rows), table)
    assert (again.unchanged, again.rejected) == (2, 1)
    assert len(read(table).rows) == 3


def test_a_prediction_that_the_table_refuses_leaves_the_earlier_one(scored_now: ScoreNow) -> None:
    rows = rides(20)
    scored_now("minutes", write("rides.parquet", rows), TABLE)
    run_sql(
        TABLE,
        "CREATE TRIGGER small BEFORE UPDATE ON predictions WHEN NEW.minutes > 1000 "
        "BEGIN SELECT RAISE(ABORT, 'too long'); END",
    )
    before = {row["id"]: row["minutes"] for row in read(TABLE).rows}
    rows[4]["distance"], rows[5]["distance"] = 5000.0, 1.0
    again = scored_now("minutes", write("rides.parquet", rows), TABLE)
    assert (counts(again), again.rejected) == ((0, 1, 18), 1)
    assert {row["id"]: row["minutes"] for row in read(TABLE).rows} == {**before, rows[5]["ride_id"]: 2.1}


def test_what_a_trigger_writes_is_not_counted(scored_now: ScoreNow) -> None:
    scored_now("minutes", write("rides.parquet", rides(5)), TABLE)
    run_sql(TABLE, "CREATE TABLE log (id TEXT)")
    for event in ("INSERT", "UPDATE"):
        run_sql(
            TABLE,
            f"CREATE TRIGGER log_{event} AFTER {event} ON predictions "  # noqa: S608 - a test's own
            "BEGIN INSERT INTO log VALUES (NEW.id), (NEW.id); END",
        )
    rows = [{**row, "distance": 1.0} for row in rides(10)]
    assert counts(scored_now("minutes", write("rides.parquet", rows), TABLE)) == (5, 5, 0)


@pytest.mark.parametrize("file", ["out.parquet", "out.csv", "out.jsonl"])
def test_a_file_is_replaced_and_so_has_no_option_for_new_rows_alone(file: str, scored_now: ScoreNow) -> None:
    rows = rides(10)
    scored_now("minutes", write("rides.parquet", rows), file)
    rows[3]["distance"] = 100.0
    assert counts(scored_now("minutes", write("rides.parquet", rows[:8]), file)) == (8, 0, 0)
    assert {row["id"]: row["minutes"] for row in read(file).rows} == {
        row["ride_id"]: row["distance"] * 2.1 for row in rows[:8]
    }
    with pytest.raises(ConfigError, match=r"--only-new: out\..* is a file"):
        scored_now("minutes", "rides.parquet", file, only_new=True)


def _interrupt(scored_now: ScoreNow, source: str, predictor: str, **plan: Any) -> None:
    """Leave an unfinished run behind 32 rows: the third chunk fails."""
    write_chunk, chunks = SqlTarget.write, itertools.count()

    def write_two(target: SqlTarget, chunk: ScoredChunk) -> RowCounts:
        if next(chunks) == 2:
            raise TargetError("the connection is gone")
        return write_chunk(target, chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqlTarget, "write", write_two)
        with pytest.raises(TargetError, match="is gone"):
            scored_now(predictor, source, TABLE, chunk=16, **plan)


def test_an_unfinished_run_is_resumed_while_it_is_young(scored_now: ScoreNow) -> None:
    source = write("sqlite:///rides.db#rides", rides(100))
    _interrupt(scored_now, source, "minutes")
    summary = scored_now("minutes", source, TABLE, chunk=16)
    assert (summary.resumed, counts(summary)) == (32, (100, 0, 0))


def test_an_unfinished_run_of_yesterday_is_not_resumed_as_its_rows_may_have_changed(
    scored_now: ScoreNow,
) -> None:
    rows = rides(100)
    source = write("sqlite:///rides.db#rides", rows)
    _interrupt(scored_now, source, "minutes")
    rows[3]["distance"] = 100.0
    write("sqlite:///rides.db#rides", rows)
    run_sql(TABLE, "UPDATE eventml_score SET updated = '2024-01-01T00:00:00+00:00'")
    summary = scored_now("minutes", source, TABLE, chunk=16)
    assert (summary.resumed, counts(summary)) == (0, (68, 1, 31))


def test_a_run_of_new_rows_alone_is_not_resumed_by_one_of_all_rows(scored_now: ScoreNow) -> None:
    source = write("sqlite:///rides.db#rides", rides(100))
    _interrupt(scored_now, source, "minutes", only_new=True)
    assert scored_now("minutes", source, TABLE, chunk=16).resumed == 0


@pytest.mark.parametrize(("age", "resumed"), [(3600.0, 16), (13 * 3600.0, 0)])
def test_a_file_is_resumed_while_its_run_is_young(age: float, resumed: int, scored_now: ScoreNow) -> None:
    rows = rides(40)
    rows[20]["zone"] = REJECTED
    write("sqlite:///rides.db#rides", rows)
    with pytest.raises(Exception, match="--max-rejects"):
        scored_now("minutes", "sqlite:///rides.db#rides", "out.csv", chunk=16, checkpoint=0, max_rejects=0)
    manifest = Path("out.csv.eventml/manifest.json")
    state = json.loads(manifest.read_bytes())
    resumed = resumed and state["checkpoint"]["counts"]["read"]
    state["checkpoint"]["saved"] = time.time() - age
    manifest.write_text(json.dumps(state))
    summary = scored_now("minutes", "sqlite:///rides.db#rides", "out.csv", chunk=16)
    assert (summary.resumed, summary.read, summary.written) == (resumed, 40, 39)
    assert len(read("out.csv").rows) == 39


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("source", ["rides.parquet", "rides.jsonl", "rides.csv"])
def test_a_row_with_the_id_of_an_earlier_one_is_rejected_as_such(
    source: str, chunk: int, target: str, scored_now: ScoreNow
) -> None:
    rows = rides(30)
    again = {**rows[3], "distance": 1000.0}
    summary = scored_now(
        "array", write(source, [*rows, again, rides(1, first=90)[0], again]), target, chunk=chunk
    )
    assert (summary.read, summary.written, summary.rejected, summary.duplicates) == (33, 31, 2, 2)
    found = read(target)
    assert {row["id"]: row["value"] for row in found.rows} == {
        row["ride_id"]: row["distance"] * 2.1 for row in [*rows, *rides(1, first=90)]
    }
    assert len(found.rows) == 31
    first, other = {
        "parquet": ("row 4", "row 31"),
        "jsonl": ("line 4", "line 31"),
        "csv": ("line 5", "line 32"),
    }[source.partition(".")[2]]
    assert found.rejects[0]["id"] == "r-0000003"
    assert found.rejects[0]["exception"] == "DuplicateIdError"
    # A table has one reject for each id.
    told = [row["message"] for row in found.rejects]
    assert any(f"has the id of {first};" in message for message in told)
    assert "://" in target or f"{other} has the id" in told[0]
    assert json.loads(found.rejects[0]["row"])["distance"] in (1000, 1000.0, "1000", "1000.0")


@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_query_that_gives_an_id_twice_is_told(
    database: str, chunk: int, request: pytest.FixtureRequest, scored_now: ScoreNow
) -> None:
    url = "sqlite:///rides.db" if database == "sqlite" else request.getfixturevalue("postgres_url")
    rows = rides(10)
    write(f"{url}#rides", rows)
    query = "SELECT * FROM rides UNION ALL SELECT * FROM rides WHERE zone IN (22, 25)"
    summary = scored_now("array", url, f"{url}#predictions", query=query, chunk=chunk)
    assert (summary.read, summary.written, summary.duplicates) == (12, 10, 2)
    assert counts(scored_now("array", url, f"{url}#predictions", query=query, chunk=chunk)) == (0, 0, 10)
    assert sorted(row["id"] for row in read(f"{url}#predictions").rejects) == ["r-0000002", "r-0000005"]


def test_ids_without_duplicates_that_cannot_be_read_are_no_duplicates(scored_now: ScoreNow) -> None:
    Path("rides.jsonl").write_text("nonsense\n{}\n{}\n" + json.dumps(rides(1)[0]) + "\n")
    summary = scored_now("array", "rides.jsonl", "out.jsonl")
    assert (summary.read, summary.written, summary.rejected, summary.duplicates) == (4, 1, 3, 0)


def test_an_interrupted_run_knows_the_duplicates_of_the_rows_before_it(scored_now: ScoreNow) -> None:
    rows = rides(64)
    write("rides.parquet", [*rows, {**rows[1], "distance": 9.0}])
    _interrupt(scored_now, "rides.parquet", "array")
    summary = scored_now("array", "rides.parquet", TABLE, chunk=16)
    assert (summary.resumed, summary.read, summary.written, summary.duplicates) == (32, 65, 64, 1)
    assert {row["id"]: row["value"] for row in read(TABLE).rows}["r-0000001"] == rows[1]["distance"] * 2.1


def test_the_rate_leaves_out_the_loading_of_the_model(scored_now: ScoreNow) -> None:
    summary = scored_now("array", write("rides.parquet", rides(1000)), "out.parquet")
    assert 0 <= summary.load_seconds < summary.seconds
    scoring = summary.seconds - summary.load_seconds
    assert summary.rows_per_second == pytest.approx(1000 / scoring, rel=0.002 / scoring + 0.01)


def test_new_rows_alone_of_json_lines_leave_what_is_there(scored_now: ScoreNow) -> None:
    rows = rides(3)
    scored_now("minutes", write("rides.jsonl", rows), TABLE)
    changed = [{**rows[0], "distance": 100.0}, {**rows[1], "zone": NO_OUTPUT}, rows[2], *rides(1, first=9)]
    again = scored_now("minutes", write("rides.jsonl", changed), TABLE, only_new=True)
    assert (counts(again), again.no_output) == ((1, 0, 2), 1)
    assert {row["id"]: row["minutes"] for row in read(TABLE).rows} == {
        row["ride_id"]: row["distance"] * 2.1 for row in [*rows, *rides(1, first=9)]
    }


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "duckdb"])
def test_a_text_without_an_output_deletes_no_integer(
    database: str, request: pytest.FixtureRequest, scored_now: ScoreNow
) -> None:
    if database == "duckdb":
        pytest.importorskip("duckdb_sqlalchemy")
    url = f"{database}:///out.db" if database != "postgresql" else request.getfixturevalue("postgres_url")
    texts = "prediction_id TEXT, predictor TEXT, model TEXT, model_version TEXT"
    columns = f"id BIGINT, minutes DOUBLE PRECISION, zone BIGINT, {texts}"
    run_sql(url, f"CREATE TABLE predictions ({columns}, PRIMARY KEY (id, predictor, model_version))")
    rows = [{**row, "ride_id": str(number)} for number, row in enumerate(rides(10))]
    scored_now("minutes", write("rides.jsonl", rows), f"{url}#predictions")
    gone = [{**row, "zone": NO_OUTPUT} for row in rows[:4]]
    for row, one in zip(gone, ("007", "text", "9" * 30, "3"), strict=True):
        row["ride_id"] = one
    assert scored_now("minutes", write("rides.jsonl", gone), f"{url}#predictions").no_output == 4
    assert sorted(row["id"] for row in read(f"{url}#predictions").rows) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
