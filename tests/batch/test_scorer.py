"""`eventml.batch.scorer`: a table in, predictions and rejected rows out, as `eventml score` writes them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from eventml.batch import ArrowScorer, scorer
from eventml.errors import AppNotFoundError, ConfigError, OutputError, SourceError
from tests.batch.conftest import ScoreNow, read, rides, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = [
    *rides(100),
    *({**row, "zone": zone} for row, zone in zip(rides(3, first=100), (13, 14, 15), strict=True)),
]
TABLE = pa.Table.from_pylist([*ROWS, {**ROWS[0], "ride_id": None}])

KINDS: dict[str, tuple[Callable[[pa.Table], Any], Callable[[Any], pa.Table]]] = {
    "table": (lambda table: table, lambda found: found),
    "record batch": (
        lambda table: pa.RecordBatch.from_pylist(table.to_pylist(), table.schema),
        lambda found: pa.Table.from_batches([found]),
    ),
    "iterator of record batches": (
        lambda table: iter(
            table.to_batches(max_chunksize=7) or [pa.RecordBatch.from_pylist([], table.schema)]
        ),
        pa.Table.from_batches,
    ),
    "record batch reader": (
        lambda table: table.to_reader(max_chunksize=7),
        lambda found: found.read_all(),
    ),
    "pandas": (
        lambda table: table.to_pandas(types_mapper=pd.ArrowDtype),
        lambda found: pa.Table.from_pandas(found, preserve_index=False),
    ),
    "polars": (pl.from_arrow, lambda found: found.to_arrow()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_what_a_job_writes(kind: str, scored_now: ScoreNow) -> None:
    scored_now("minutes", write("rides.parquet", TABLE.to_pylist()), "out.parquet")
    expected, there = read("out.parquet"), KINDS[kind]
    score = scorer("scored_app:minutes")
    found = there[1](score(there[0](TABLE))).to_pylist()
    predictions = [row for row in found if row.pop("rejected") is None]
    assert sorted(predictions, key=lambda row: row["id"]) == expected.rows
    again = there[1](score(there[0](TABLE))).to_pylist()
    rejects = sorted((one for row in again if (one := row["rejected"])), key=lambda row: row["id"])
    expected.rejects.sort(key=lambda row: row["id"])
    assert [row["id"] for row in expected.rejects] == ["r-0000100", "r-0000101", "row 104"]
    for one, other in zip(rejects, expected.rejects, strict=True):
        assert one["row"] == other["row"] or json.loads(one["row"]) == json.loads(other["row"])
        assert (one["exception"], one["message"], one["attempts"]) == (
            other["exception"],
            other["message"],
            other["attempts"],
        )
    assert all(row["id"] is None and row["minutes"] is None for row in again if row["rejected"])


@pytest.mark.parametrize("predictor", ["minutes", "single", "frame", "table"])
def test_every_kind_of_handler_gives_the_columns_of_the_schema(predictor: str) -> None:
    score = scorer(f"scored_app:{predictor}", output=float)
    good = TABLE.slice(0, 100)
    found = score(good)
    assert found.schema == score.schema == score(good.slice(0, 0)).schema
    assert found.num_rows == 100
    assert found["prediction_id"][0].as_py() == f"r-0000000/{predictor}@v1"


def test_the_schema_is_known_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("SLOW", "0")  # the app touches the file `loaded` then
    score = scorer("scored_app:minutes")
    assert score.schema.names[:3] == ["id", "minutes", "zone"]
    assert score(TABLE.slice(0, 0)).schema == score.schema
    assert not (folder / "loaded").exists()


PROCESS = """
import json, pickle, sys
from pathlib import Path
import pyarrow.parquet as pq
score = pickle.loads(sys.stdin.buffer.read())
counts = []
for _ in range(3):
    other = pickle.loads(pickle.dumps(score))
    counts.append(other(pq.read_table("rides.parquet")).num_rows)
    Path("loads").open("a").write("x") if Path("loaded").exists() else None
    Path("loaded").unlink(missing_ok=True)
print(json.dumps([counts, Path("loads").read_text()]))
"""


def test_a_pickled_scorer_loads_its_model_once_in_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write("rides.parquet", rides(10))
    monkeypatch.setenv("SLOW", "0")
    text = pickle.dumps(scorer("scored_app:minutes"))
    assert len(text) < 200  # names only
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", PROCESS], input=text, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == [[10, 10, 10], "x"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_process_loads_a_model_of_its_own() -> None:
    code = (
        "import os, pyarrow as pa\nfrom eventml.batch import scorer\n"
        "score = scorer('scored_app:minutes')\n"
        "table = pa.table({'ride_id': ['a'], 'zone': [1], 'distance': [2.0]})\n"
        "first = score(table)\n"
        "if not (pid := os.fork()):\n    os._exit(0 if score(table) == first else 1)\n"
        "print(os.waitpid(pid, 0)[1])\n"
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - as above
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_threads_take_turns_and_get_their_own_rows() -> None:
    score = scorer("scored_app:minutes")
    parts = [pa.Table.from_pylist(rides(50, first=first)) for first in range(0, 1000, 50)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(score, parts))
    assert [one["id"].to_pylist() for one in found] == [one["ride_id"].to_pylist() for one in parts]


@pytest.mark.parametrize("zone", [15, None], ids=["without outputs", "empty"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_predictions_has_the_columns(kind: str, zone: int | None) -> None:
    make, back = KINDS[kind]
    table = pa.Table.from_pylist([{**row, "zone": zone} for row in rides(5 if zone else 0)], TABLE.schema)
    found = back(scorer("scored_app:minutes")(make(table if zone else TABLE.slice(0, 0).combine_chunks())))
    assert found.num_rows == 0
    assert found.column_names == scorer("scored_app:minutes").schema.names


def test_a_column_that_is_missing_is_named() -> None:
    score = scorer("scored_app:minutes")
    with pytest.raises(
        SourceError, match="no column 'distance', which RideStarted needs; there are: ride_id"
    ):
        score(TABLE.drop_columns(["distance"]))
    with pytest.raises(SourceError, match="no column 'number' to take the ids from"):
        scorer("scored_app:minutes", id_column="number")(TABLE)


@pytest.mark.parametrize(
    ("predictor", "error", "message"),
    [
        ("scored_app:array", OutputError, r"output=float"),
        ("scored_app:log", AppNotFoundError, "no predictor|consumer"),
        ("scored_app:nothing", AppNotFoundError, "no predictor of that name"),
    ],
)
def test_what_cannot_be_scored_is_refused_when_the_scorer_is_made(
    predictor: str, error: type[Exception], message: str
) -> None:
    with pytest.raises((error, ConfigError), match=message):
        scorer(predictor)


@pytest.mark.parametrize("data", [[1], None, pl.LazyFrame({"zone": [1]})])
def test_what_is_no_table_is_refused(data: object) -> None:
    with pytest.raises(TypeError, match=f"takes an Arrow table, .* not {type(data).__name__}"):
        scorer("scored_app:minutes")(data)


@pytest.fixture
def good() -> pa.Table:
    return pa.Table.from_pylist([{**row, "passengers": 1} for row in rides(5)])


def ids_of(found: Any) -> list[Any]:
    return [one for one in found["id"].to_list() if isinstance(one, str)]


def test_of_a_frame_only_the_columns_that_are_needed_are_converted(good: pa.Table) -> None:
    frame = good.to_pandas()
    frame["junk"] = [1, "a", None, {"x": 1}, object()]
    frame[7] = frame["twice"] = 1
    frame.columns = [*frame.columns[:-1], "junk"]
    assert len(ids_of(scorer("scored_app:minutes")(frame))) == 5


def test_a_value_of_another_type_in_a_frame_costs_its_row(good: pa.Table) -> None:
    frame = good.to_pandas()
    frame["zone"] = pd.Series([20, 21, "x", 23, [24]], dtype=object)
    found = scorer("scored_app:minutes")(frame)
    assert ids_of(found) == ["r-0000000", "r-0000001", "r-0000003"]
    messages = [one["message"] for one in found["rejected"].to_list() if isinstance(one, dict)]
    assert messages == [
        "Expected `int`, got `str` - at `$.zone`",
        "Expected `int`, got `array` - at `$.zone`",
    ]
    frame["zone"] = [20, 21, object(), 23, 24]
    with pytest.raises(SourceError, match="the table: row 3 cannot be converted to Arrow"):
        scorer("scored_app:minutes")(frame)


def test_two_columns_of_one_name_are_refused(good: pa.Table) -> None:
    score = scorer("scored_app:minutes")
    frame = good.to_pandas().rename(columns={"passengers": "zone"})
    for table in (good.append_column("zone", good["zone"]), frame):
        with pytest.raises(SourceError, match="the table has two columns 'zone'"):
            score(table)
    again = good.append_column("x", good["zone"]).append_column("x", good["zone"])
    assert score(again).num_rows == 5


def test_tables_in_an_iterator_and_kinds_of_frames(good: pa.Table) -> None:
    class Frame(pd.DataFrame):  # type: ignore[misc]  # pandas has no types here
        pass

    score = scorer("scored_app:minutes")
    frames = [good, good.to_pandas(), pl.from_arrow(good), Frame(good.to_pandas())]
    found = list(score(iter(frames)))
    kinds = [pa.Table, pd.DataFrame, pl.DataFrame, pd.DataFrame]
    assert all(isinstance(one, kind) for one, kind in zip(found, kinds, strict=True))
    assert [len(one["id"]) for one in found] == [5] * 4


def test_texts_of_every_type_of_arrow(good: pa.Table) -> None:
    score = scorer("scored_app:minutes")
    texts = good["ride_id"]
    frame: Any = pl.from_arrow(good)
    tables = [
        good.set_column(0, "ride_id", texts.cast(kind)) for kind in (pa.large_string(), pa.string_view())
    ]
    tables.append(good.set_column(0, "ride_id", texts.dictionary_encode()))
    for table in (*tables, frame.with_columns(pl.col("ride_id").cast(pl.Categorical))):
        assert pa.table(score(table))["id"].to_pylist() == texts.to_pylist()


def test_a_value_that_does_not_fit_its_column_costs_its_row() -> None:
    found = ArrowScorer("scored_app:huge", None, None)(pa.Table.from_pylist(rides(4))).to_pylist()
    assert [row["id"] for row in found if not row["rejected"]] == ["r-0000000", "r-0000001", "r-0000003"]
    assert [row["rejected"]["id"] for row in found if row["rejected"]] == ["r-0000002"]
