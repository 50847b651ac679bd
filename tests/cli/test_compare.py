"""`eventml compare` and `eventml replay`: a challenger, or a new model, against what was answered."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from eventml import Bus
from eventml.bus import read_batches
from tests.model_updates.conftest import ModelFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Hubs, Invoke

APP = """
import eventml
import msgspec

bus = eventml.Bus("app", backend="onehub://")


class Number(msgspec.Struct):
    x: float
    kind: str


class Sum(msgspec.Struct):
    total: float
    kind: str


@bus.predictor("numbers", to="sums", model="one.skops")
def add(numbers: list[Number], model) -> list[Sum]:
    if any(number.x == 13 for number in numbers):
        raise ValueError("13")
    totals = model.predict([[number.x] for number in numbers])
    return [Sum(float(t), n.kind) for n, t in zip(numbers, totals)]


@bus.predictor("numbers", to="many")
def several(number: Number) -> list[Sum]:
    return []
"""

EVENTS = [{"x": float(n), "kind": "even" if n % 2 == 0 else "odd"} for n in range(100)]


@pytest.fixture
def versions(folder: Path) -> dict[str, str]:
    """An app whose predictor adds 1, and a model `two.skops` that adds 2.5: their versions."""
    (folder / "app.py").write_text(APP)
    (folder / "eventml.toml").write_text('[consumer.add.challenger.two]\nmodel = "two.skops"\n')
    return {
        "one": ModelFile(folder / "one.skops").replace(1.0),
        "two": ModelFile(folder / "two.skops").replace(2.5),
    }


def answer(invoke: Invoke, *, only: str = "add,add.challenger.two") -> None:
    lines = "\n".join(map(json.dumps, EVENTS))
    published = invoke("publish", "numbers", "--format", "jsonl", "--backend", "onehub://", stdin=lines)
    assert published.exit_code == 0, published.output
    names = [option for name in only.split(",") for option in ("--only", name)]
    result = invoke("run", "app:bus", *names, "--until-idle", "0.1")
    assert result.exit_code == 0, result.output


def found(invoke: Invoke, *args: str) -> dict[str, Any]:
    result = invoke(*args, "--json")
    assert result.exit_code == 0, result.output
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def test_a_champion_and_its_challenger_are_paired_by_event(
    invoke: Invoke, hubs: Hubs, versions: dict[str, str], folder: Path
) -> None:
    del hubs
    answer(invoke)
    report = found(invoke, "compare", "app:add", "--html", "report.html")
    assert report["events"] == 100
    assert [(m["predictor"], m["versions"], m["dead_letters"]) for m in report["models"]] == [
        ("add", {versions["one"]: 99}, 1),
        ("add.challenger.two", {versions["two"]: 99}, 1),
    ]
    comparison = report["comparison"]
    assert (comparison["pairs"], comparison["only_first"], comparison["only_second"]) == (99, 0, 0)
    total, kind = comparison["fields"]
    assert (total["field"], total["equal"], kind["field"], kind["equal"]) == ("total", 0.0, "kind", 1.0)
    assert {total[name] for name in ("mean", "absolute", "p50", "p99", "largest")} == {1.5}
    groups = {(one["feature"], one["values"]): one["events"] for one in comparison["features"]}
    assert groups["kind", "even"] == 50
    assert groups["kind", "odd"] == 49
    page = (folder / "report.html").read_text()
    assert "add.challenger.two" in page
    assert "<script" not in page
    text = invoke("compare", "app:add").output
    assert "100 events, 99 answered by both" in text


def test_replay_predicts_old_events_with_another_model_and_publishes_nothing(
    invoke: Invoke, hubs: Hubs, versions: dict[str, str], folder: Path
) -> None:
    answer(invoke, only="add")
    report = found(invoke, "replay", "app:add", "--model", "two.skops", "--to", "diff.parquet")
    assert [m["versions"] for m in report["models"]] == [{versions["one"]: 99}, {versions["two"]: 99}]
    assert report["comparison"]["fields"][0]["mean"] == 1.5
    rows = pq.read_table(folder / "diff.parquet").to_pylist()
    assert len(rows) == 99
    assert all(row["new_total"] - row["old_total"] == 1.5 for row in rows)
    assert {row["x"] for row in rows} == {event["x"] for event in EVENTS} - {13.0}
    del hubs
    assert not invoke("tail", "sums.challenger.two", "--backend", "onehub://", "--until-end").stdout


def test_replay_with_another_model_does_not_test_the_golden_rows_of_the_first(
    invoke: Invoke, hubs: Hubs, versions: dict[str, str], folder: Path
) -> None:
    del hubs
    golden = {**EVENTS[1], "prediction": {"total": 2.0}}
    (folder / "golden.jsonl").write_text(json.dumps(golden))
    with (folder / "eventml.toml").open("a") as settings:
        settings.write('[consumer.add]\ngolden = "golden.jsonl"\n')
    answer(invoke, only="add")
    report = found(invoke, "replay", "app:add", "--model", "two.skops")
    assert [m["versions"] for m in report["models"]] == [{versions["one"]: 99}, {versions["two"]: 99}]


def test_a_time_without_events_is_named(invoke: Invoke, hubs: Hubs, versions: dict[str, str]) -> None:
    del hubs, versions
    answer(invoke)
    result = invoke("compare", "app:add", "--from", "3d", "--until", "2d")
    assert "there are no events of this time; --from 3d begins earlier" in result.stderr
    assert result.exit_code == 0


def test_answers_are_read_from_the_time_of_the_first_event(
    invoke: Invoke, hubs: Hubs, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An age is taken once: else those to the oldest events are missed, as reads follow one another."""
    del hubs, versions
    answer(invoke)
    starts: list[Any] = []

    def noted(bus: Bus, topic: str, *, start: Any, until: Any) -> Any:
        starts.append(start)
        return read_batches(bus, topic, start=start, until=until)

    monkeypatch.setattr("eventml.deploy.comparison.answers.read_batches", noted)
    for command in (("compare", "app:add"), ("replay", "app:add", "--model", "two.skops")):
        starts.clear()
        assert invoke(*command, "--from", "2h").exit_code == 0
        assert len(starts) > 2
        first = min(starts)
        assert starts.count(first) >= len(starts) - 1  # replay reads the last answers once more
        assert isinstance(first, datetime)


def test_a_terminal_is_redrawn_until_sigint(
    invoke: Invoke, hubs: Hubs, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del hubs, versions
    answer(invoke)
    shown: list[str] = []
    starts: set[datetime] = set()

    def draw_twice(render: Callable[[int], str], every: float) -> None:
        assert every == 5.0
        shown.extend([render(100), render(100)])

    def noted(bus: Bus, topic: str, *, start: Any, until: Any) -> Any:
        starts.add(start)
        return read_batches(bus, topic, start=start, until=until)

    with monkeypatch.context() as patched:
        patched.setattr("eventml.cli.compare.redraw", draw_twice)
        patched.setattr("eventml.deploy.comparison.answers.read_batches", noted)
        patched.setattr("eventml.cli.compare.is_terminal", lambda: True)
        assert invoke("compare", "app:add", "--watch", "5").exit_code == 0
    assert ["100 events, 99 answered by both" in one for one in shown] == [True, True]
    assert len(starts) == 2  # the events of the last day, each time
    assert "100 events, 99 answered by both" in invoke("compare", "app:add", "--watch", "5").output


def test_tables_of_differences_are_left_out_if_there_are_none(
    invoke: Invoke, hubs: Hubs, versions: dict[str, str]
) -> None:
    del hubs, versions
    answer(invoke, only="add")
    shown = invoke("replay", "app:add").output
    assert "Differences, second minus first" in shown
    assert "differs most" not in shown
    assert "largest differences" not in shown


def test_the_help_shows_the_age_of_the_first_event(invoke: Invoke) -> None:
    assert "[default: 1d]" in " ".join(invoke("compare", "--help").output.split())


def test_replay_publishes_where_it_is_told_to(invoke: Invoke, hubs: Hubs, versions: dict[str, str]) -> None:
    del hubs
    answer(invoke, only="add")
    result = invoke("replay", "app:add", "--model", "two.skops", "--publish", "sums.new")
    assert result.exit_code == 0, result.output
    tail = invoke("tail", "sums.new", "--backend", "onehub://", "--until-end").stdout.splitlines()
    assert len(tail) == 99
    assert json.loads(tail[0])["headers"]["ce_modelversion"] == versions["two"]


def test_hostile_names_do_no_harm_in_the_page(
    invoke: Invoke, hubs: Hubs, versions: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hubs, versions
    hostile = "<script>alert(1)</script>"
    monkeypatch.setattr("tests.cli.test_compare.EVENTS", [{"x": 1.0, "kind": hostile}] * 40)
    answer(invoke)
    assert invoke("compare", "app:add", "--html", "report.html").exit_code == 0
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("compare", "app:add", "--with", "three"), "add has these challengers: two; name one by --with"),
        (("compare", "app:several"), "several cannot be compared"),
        (("replay", "app:nothing"), "no predictor of that name"),
        (("replay", "app:add", "--model", "three.skops"), "there is no model at three.skops"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    invoke: Invoke, hubs: Hubs, versions: dict[str, str], args: tuple[str, ...], message: str
) -> None:
    del hubs, versions
    result = invoke(*args)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
