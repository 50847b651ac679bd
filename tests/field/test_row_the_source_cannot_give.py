"""One row of the source holds a value that Python cannot: it is rejected, and the others are scored."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventml import Bus
from eventml.deploy.batch import ScorePlan, parse_location, score
from eventml.deploy.batch.chunks import RowChunk
from eventml.deploy.batch.row_decoding import RowDecoder
from eventml.errors import SourceError
from tests.batch.conftest import folder, read  # noqa: F401 - a fixture
from tests.field.test_table_has_own_types import Database, postgres  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from eventml.deploy.batch import ScoreSummary

pytestmark = pytest.mark.anyio

DAY = datetime(2024, 2, 29, tzinfo=UTC)


class Typed(msgspec.Struct):
    when: datetime


class Named(msgspec.Struct):
    text: str


async def score_typed(source: str, event_type: Any, **options: Any) -> ScoreSummary:
    bus = Bus("sources")

    @bus.predictor("events", to="answers", event_type=event_type, backoff=0.001, retries=0)
    def answer(events: list[Any]) -> list[float]:
        return [0.5 for _ in events]

    plan = ScorePlan(
        predictor="answer",
        source=parse_location(source, option="--from"),
        target=parse_location("out.jsonl", option="--to"),
        id_column="id",
        **{"chunk": 2, **options},
    )
    return await score(bus, plan)


@pytest.mark.parametrize("event_type", [Typed, dict])
async def test_times_that_python_cannot_hold(postgres: Database, event_type: Any) -> None:  # noqa: F811
    """A struct rejects them; to a dict they are the text that PostgreSQL shows."""
    values = ("2024-02-29", "infinity", "-infinity", "0044-03-15 BC", "20240-01-01", "2024-03-01")
    postgres.run('CREATE TABLE events (id int PRIMARY KEY, "when" timestamptz, day date, long interval)')
    for number, value in enumerate(values):
        day = value.replace("20240", "2024")
        postgres.run(f"INSERT INTO events VALUES ({number}, '{value}', '{day}', '300000000 days')")  # noqa: S608 - the test's own
    summary = await score_typed(f"{postgres.url}#events", event_type)
    found = read("out.jsonl")
    good = ["0", "5"] if event_type is Typed else [*map(str, range(6))]
    assert (summary.rejected, found.ids) == (6 - len(good), good)
    assert all(row["exception"] == "DecodeError" for row in found.rejects)
    assert event_type is dict or "infinity" in found.rejects[0]["row"]


@pytest.mark.parametrize("event_type", [Named, dict])
@pytest.mark.parametrize("chunk", [1, 2, 9])
async def test_a_text_in_sqlite_that_is_no_utf_8(event_type: Any, chunk: int) -> None:
    with sqlite3.connect("events.db") as connection:
        connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany(
            "INSERT INTO events VALUES (?, CAST(? AS TEXT))", [(1, b"a"), (2, b"b\xff"), (3, "☃".encode())]
        )
    connection.close()
    summary = await score_typed("sqlite:///events.db#events", event_type, chunk=chunk)
    found = read("out.jsonl")
    assert (summary.written, found.ids) == (2, ["1", "3"])
    [reject] = found.rejects
    assert (reject["id"], reject["exception"]) == ("2", "DecodeError")


async def test_an_id_in_sqlite_that_is_no_utf_8_is_named() -> None:
    with sqlite3.connect("events.db") as connection:
        connection.execute("CREATE TABLE events (id TEXT, text TEXT)")
        connection.executemany("INSERT INTO events VALUES (CAST(? AS TEXT), 'a')", [(b"a",), (b"b\xff",)])
    connection.close()
    with pytest.raises(SourceError, match=r"id of a row .*xff' is no UTF-8"):
        await score_typed("sqlite:///events.db#events", Named)


@pytest.mark.parametrize("column", ["when", "text"])
async def test_a_value_in_parquet_that_python_cannot_hold(column: str) -> None:
    if column == "when":
        cells: Any = pa.array([0, 10**17, 1], pa.timestamp("ms", "UTC"))
    else:
        offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in range(4)))
        cells = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xffb")])
    pq.write_table(pa.table({"id": [1, 2, 3], column: cells}), "events.parquet")
    for event_type in (Typed if column == "when" else Named, dict):
        summary = await score_typed("events.parquet", event_type, chunk=9)
        found = read("out.jsonl")
        assert (summary.written, found.ids) == (2, ["1", "3"])
        assert [row["id"] for row in found.rejects] == ["2"]


async def test_a_parquet_file_that_is_damaged_is_refused_by_the_row() -> None:
    pq.write_table(pa.table({"id": range(5000), "text": ["a"] * 5000}), "events.parquet", row_group_size=1000)
    with open("events.parquet", "r+b") as stream:  # noqa: ASYNC230, PTH123 - in the test's folder
        group = pq.ParquetFile("events.parquet").metadata.row_group(2).column(0)
        stream.seek(group.dictionary_page_offset or group.data_page_offset)
        stream.write(b"\xff" * 64)
    with pytest.raises(SourceError, match="cannot be read as Parquet behind row 2000"):
        await score_typed("events.parquet", Named, chunk=1000)


# What a database, or Parquet, gives.
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(),
    st.binary(),
    st.uuids(),
    st.decimals(-1000, 1000, places=3) | st.sampled_from([Decimal("NaN"), Decimal(12)]),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.lists(st.integers() | st.text()),
    st.dictionaries(st.text(), st.none() | st.booleans() | st.text()),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(values, min_size=1, max_size=3), st.booleans())
def test_a_dict_holds_what_the_stream_s_json_of_the_row_holds(cells: list[Any], one_invalid: bool) -> None:
    """For whole columns, and for rows that are decoded one by one."""
    encode = msgspec.json.Encoder(decimal_format="number").encode
    plain = [None if isinstance(c, Decimal) and not c.is_finite() else c for c in cells]
    expected = [msgspec.json.decode(encode({"cell": cell}), type=dict) for cell in plain]
    ids: list[Any] = [*range(len(cells))]
    if one_invalid:
        ids, cells = [*ids, None], [*cells, 1]
    found = RowDecoder(dict).decode(RowChunk(position=None, ids=ids, columns={"cell": cells}))
    assert found.events == expected
    assert [type(event["cell"]) for event in found.events] == [type(event["cell"]) for event in expected]


async def test_a_dict_from_postgresql_is_the_event_of_a_stream(postgres: Database) -> None:  # noqa: F811
    postgres.run(
        "CREATE TABLE events (id uuid PRIMARY KEY, price numeric(9,2), count numeric(9,0), at timestamptz, "
        "day date, raw bytea, nested jsonb, tags text[], part real, flag boolean, host inet, span int4range)",
        "INSERT INTO events VALUES ('00000000-0000-0000-0000-000000000007', 1.10, 12, '2024-02-29 12:00+00', "
        """'2024-02-29', '\\x00ff', '{"a": [1, null]}', '{x,y}', 0.1, true, '10.0.0.1', '[1,5)')""",
        "SET TIME ZONE 'UTC'",
    )
    seen: list[dict[str, Any]] = []

    def keep(events: list[dict[str, Any]]) -> list[float]:
        seen.extend(events)
        return [0.5 for _ in events]

    assert (await postgres.score(f"{postgres.url}#events", keep)).written == 1
    [event] = seen
    assert datetime.fromisoformat(event.pop("at")) == DAY.replace(hour=12)
    assert event == {
        "id": str(UUID(int=7)),
        "price": 1.1,
        "count": 12,
        "day": date(2024, 2, 29).isoformat(),
        "raw": "AP8=",
        "nested": {"a": [1, None]},
        "tags": ["x", "y"],
        "part": 0.1,
        "flag": True,
        "host": "10.0.0.1",
        "span": "[1, 5)",
    }
