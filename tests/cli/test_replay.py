"""`eventml replay`: awkward events and predictors, and its diff against one that pandas makes."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from eventml.deploy import comparison
from tests.model_updates.conftest import ModelFile

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Hubs, Invoke

APP = """
import os
from typing import Any

import eventml
import msgspec
import pydantic

bus = eventml.Bus("app", backend="onehub://")


class Number(msgspec.Struct):
    x: float
    kind: str = ""


class Sum(msgspec.Struct):
    total: float | None


@bus.predictor("numbers", to="sums", model="one.skops", golden=os.environ.get("GOLDEN"))
def add(numbers: list[Number], model) -> list[Sum | None]:
    if any(number.x == 13 for number in numbers) and "REPAIRED" not in os.environ:
        raise ValueError("13")
    totals = model.predict([[number.x] for number in numbers])
    return [None if n.x == 7 else Sum(float(t)) for n, t in zip(numbers, totals)]


@bus.predictor("numbers", to="plain")
def plain(numbers: list[Number]) -> list[float]:
    return [1.0 for number in numbers]


class Checked(pydantic.BaseModel):
    x: float


bus.topic("checked", event_type=Checked)


@bus.predictor("checked", to="doubled")
def double(numbers: list[Checked]) -> list[float]:
    return [2 * number.x for number in numbers]


class Named(msgspec.Struct):
    id: str
    event_id: str
    event_old_x: str
    event_kind: str


@bus.predictor("named", to="lengths")
def length(numbers: list[Named]) -> list[float]:
    return [len(n.id) + 10 * len(n.event_id) + 100 * len(n.event_old_x + n.event_kind) for n in numbers]
"""


@pytest.fixture(autouse=True)
def versions(folder: Path, hubs: Hubs) -> dict[str, str]:
    """An app whose predictor adds 1, and a model `two.skops` that adds 2.5: their versions."""
    del hubs
    (folder / "app.py").write_text(APP)
    return {
        "one": ModelFile(folder / "one.skops").replace(1.0),
        "two": ModelFile(folder / "two.skops").replace(2.5),
    }


def publish(invoke: Invoke, events: list[dict[str, Any]], topic: str = "numbers", *options: str) -> None:
    lines = "\n".join(map(json.dumps, events))
    result = invoke("publish", topic, "--format", "jsonl", "--backend", "onehub://", *options, stdin=lines)
    assert result.exit_code == 0, result.output


def run(invoke: Invoke, name: str = "add") -> None:
    result = invoke("run", "app:bus", "--only", name, "--until-idle", "0.1")
    assert result.exit_code == 0, result.output


def report(invoke: Invoke, *args: str) -> dict[str, Any]:
    result = invoke("replay", *args, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_its_diff_equals_one_that_pandas_makes(invoke: Invoke, folder: Path) -> None:
    """From the topics as `tail` prints them, and the second model called by hand."""
    publish(invoke, [{"x": n * 0.37, "kind": f"k{n % 7}"} for n in range(700)] + [{"x": 7.0}, {"x": 13.0}])
    run(invoke)
    found = report(invoke, "app:add", "--model", "two.skops", "--to", "diff.parquet")

    def topic(name: str) -> pd.DataFrame:
        lines = invoke("tail", name, "--backend", "onehub://", "--until-end").stdout.splitlines()
        records = [json.loads(line) for line in lines]
        return pd.DataFrame([{"id": one["id"], **one["value"]} for one in records])

    answered = topic("sums")
    answered["id"] = answered["id"].str.rpartition("/")[0]
    by_hand = topic("numbers").merge(answered.rename(columns={"total": "old_total"}), on="id")
    by_hand["new_total"] = by_hand["x"] + 2.5
    diff = pd.read_parquet(folder / "diff.parquet")
    columns = ["id", "x", "kind", "old_total", "new_total"]
    assert list(diff.columns) == columns
    pd.testing.assert_frame_equal(
        diff.sort_values("id", ignore_index=True), by_hand[columns].sort_values("id", ignore_index=True)
    )
    [field] = found["comparison"]["fields"]
    differences = by_hand["new_total"] - by_hand["old_total"]
    assert (found["comparison"]["pairs"], found["events"]) == (700, 702)
    assert field["mean"] == pytest.approx(differences.mean())
    assert field["p90"] == pytest.approx(differences.abs().quantile(0.9))
    assert field["largest"] == differences.abs().max()


def test_a_file_of_pairs_is_predicted_again_without_a_broker(
    invoke: Invoke, folder: Path, versions: dict[str, str]
) -> None:
    publish(invoke, [{"x": n * 0.37, "kind": f"k{n % 7}", "id": "own"} for n in range(50)] + [{"x": 7.0}])
    run(invoke)
    from_topic = report(invoke, "app:add", "--model", "two.skops", "--to", "pairs.parquet")
    app = (folder / "app.py").read_text()
    (folder / "app.py").write_text(app.replace("onehub://", "redis://127.0.0.1:1"))
    again = ("app:add", "--model", "two.skops", "--events", "pairs.parquet", "--to", "again.parquet")
    from_file = report(invoke, *again)
    assert from_file["comparison"] | {"features": ..., "worst": ...} == from_topic["comparison"] | {
        "features": ...,
        "worst": ...,
    }
    assert [one["versions"] for one in from_file["models"]] == [{}, {versions["two"]: 50}]
    files = [pq.read_table(folder / name).to_pylist() for name in ("pairs.parquet", "again.parquet")]
    columns = ["id", "x", "kind", "old_total", "new_total"]
    assert [[{name: row[name] for name in columns} for row in rows] for rows in files] == [
        [{name: row[name] for name in columns} for row in files[0]]
    ] * 2
    (folder / "app.py").write_text(app)


def test_awkward_fields_of_events_are_written(invoke: Invoke, folder: Path) -> None:
    """Fields that the first event lacks, that are named like a column, or hold values of several types."""
    more: list[dict[str, Any]] = [
        {"extra": 1.5},
        {"id": "own"},
        {"old_total": 3},
        {"odd": "text"},
        {"odd": 5},
        {"odd": {}},
    ]
    publish(invoke, [{"x": float(n), **fields} for n, fields in enumerate([{}, *more])])
    run(invoke)
    report(invoke, "app:add", "--to", "diff.parquet")
    rows = {row["x"]: row for row in pq.read_table(folder / "diff.parquet").to_pylist()}
    assert len(rows) == 7
    assert rows[1.0]["extra"] == 1.5
    assert rows[2.0]["event_id"] == "own"
    assert rows[2.0]["id"] != "own"
    assert (rows[3.0]["old_total"], rows[3.0]["event_old_total"]) == (4.0, 3)
    assert [rows[x]["odd"] for x in (0.0, 4.0, 5.0, 6.0)] == [None, "text", "5", "{}"]


def test_fields_that_are_named_like_columns_come_back_from_the_file(invoke: Invoke) -> None:
    publish(invoke, [{"id": "a", "event_id": "bb", "event_old_x": "c", "event_kind": "d"}], "named")
    run(invoke, "length")
    report(invoke, "app:length", "--to", "diff.parquet")
    [difference] = report(invoke, "app:length", "--events", "diff.parquet")["comparison"]["fields"]
    assert difference["equal"] == 1.0


def test_without_a_pair_the_file_has_no_rows(invoke: Invoke, folder: Path) -> None:
    publish(invoke, [{"x": 7.0}])
    run(invoke)
    report(invoke, "app:add", "--to", "diff.parquet")
    assert pq.read_table(folder / "diff.parquet").num_rows == 0


def test_an_event_that_failed_and_was_replayed_is_an_answered_one(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(invoke, [{"x": 13.0}, {"x": 1.0}])
    run(invoke)
    assert [one["dead_letters"] for one in report(invoke, "app:add")["models"]] == [1, 1]
    for _ in range(2):  # a second replay, of the event that failed again
        assert invoke("dlq", "replay", "app:bus").exit_code == 0
        run(invoke)
    assert [one["dead_letters"] for one in report(invoke, "app:add")["models"]] == [1, 1]
    monkeypatch.setenv("REPAIRED", "1")
    assert invoke("dlq", "replay", "app:bus").exit_code == 0
    run(invoke)
    models = report(invoke, "app:add")["models"]
    assert [(one["answered"], one["dead_letters"]) for one in models] == [(2, 0), (2, 0)]


def test_golden_rows_of_the_model_in_use_do_not_refuse_another_one(
    invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]
) -> None:
    (folder / "golden.jsonl").write_text('{"x": 1, "prediction": {"total": 2}}')
    monkeypatch.setenv("GOLDEN", "golden.jsonl")
    publish(invoke, [{"x": 1.0}])
    run(invoke)
    models = report(invoke, "app:add", "--model", "two.skops")["models"]
    assert [one["versions"] for one in models] == [{versions["one"]: 1}, {versions["two"]: 1}]


def test_events_of_a_pydantic_model_are_compared(invoke: Invoke) -> None:
    publish(invoke, [{"x": 1.0}], "checked")
    run(invoke, "double")
    assert report(invoke, "app:double")["comparison"]["pairs"] == 1


def test_an_age_is_that_at_the_start_of_the_command(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the events takes long: the answers to the first of them are still read."""
    starts = []

    replay = comparison.replay

    async def noted(*args: Any, start: Any, **options: Any) -> Any:
        starts.append(start)
        return await replay(*args, start=start, **options)

    monkeypatch.setattr(comparison, "replay", noted)
    report(invoke, "app:add", "--from", "1h")
    assert isinstance(starts[0], datetime)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("app:add", "--from", "1h", "--until", "2h"), "is not after --from"),
        (("app:add", "--events", "app.py", "--publish", "new"), "leave --until and --publish out"),
        (("app:add", "--events", "app.py"), "app.py: cannot be read as Parquet"),
        (("app:add", "--publish", "numbers"), "add reads or writes numbers: publish to another topic"),
        (("app:add", "--publish", "sums"), "add reads or writes sums: publish to another topic"),
        (("app:add", "--to", "none/diff.parquet"), "none/diff.parquet cannot be written"),
        (("app:add", "--html", "none/page.html"), "none/page.html cannot be written"),
        (("app:plain", "--model", "two.skops"), "its function has no parameter named 'model'"),
    ],
)
def test_what_cannot_work_is_refused_before_the_work(
    invoke: Invoke, args: tuple[str, ...], message: str
) -> None:
    publish(invoke, [{"x": 1.0}])
    result = invoke("replay", *args)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.replace("│", " ").split())
