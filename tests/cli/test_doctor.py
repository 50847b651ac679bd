"""`eventml doctor`: what a predictor costs, and the advice that follows from it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression

from eventml.deploy.doctor import BatchCost, Examination, advise, measurements
from tests.model_updates.conftest import ModelFile

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Invoke

APP = """
import time

import eventml
import msgspec

bus = eventml.Bus("app")


class Number(msgspec.Struct):
    x: float


@bus.predictor("numbers", to="sums", model="one.skops", max_batch=24, start="latest", dedupe_window=10)
def add(numbers: list[Number], model) -> list[float]:
    return model.predict([[number.x] for number in numbers])


@bus.consumer("numbers")
def show(numbers: list[Number]) -> None:
    raise NotImplementedError


@bus.predictor("numbers", to="sums", max_batch=1024)
def slow(numbers: list[Number]) -> list[float]:
    time.sleep(0.1)
    return [0.0 for number in numbers]


@bus.predictor("numbers", to="sums")
def single(number: Number) -> float:
    if number.x == 3:
        raise ValueError("three")
    return 0.0


@bus.predictor("numbers", to="sums")
def distinct(numbers: list[Number]) -> list[float]:
    if len({number.x for number in numbers}) < len(numbers):
        raise ValueError("repeated")
    return [0.0 for number in numbers]
"""


@pytest.fixture(autouse=True)
def version(folder: Path) -> str:
    (folder / "app.py").write_text(APP)
    (folder / "rows.jsonl").write_text('{"x": 1}\n{"x": 2, "prediction": 7}\n{"x": 3}')
    return ModelFile(folder / "one.skops").replace(1.0)


def test_it_measures_each_size_of_batch(invoke: Invoke, version: str) -> None:
    result = invoke("doctor", "app:add", "--rows", "rows.jsonl", "--rate", "1e9", "--json")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    found, advice = report["examination"], report["advice"]
    assert (found["predictor"], found["model"]) == ("add", ["one", version])
    assert [one["size"] for one in found["batches"]] == [1, 2, 4, 8, 16, 24]
    assert all(one["same_bits"] and one["seconds"] > 0 for one in found["batches"])
    assert found["turn"] > 0
    assert found["worker"] > advice["rate"] > 0
    assert advice["max_batch"] in {1, 2, 4, 8, 16, 24}
    assert advice["workers"] == max(-int(-1e9 // advice["rate"]), 1)


def test_its_report_names_what_to_set(invoke: Invoke) -> None:
    output = invoke("doctor", "app:add", "--rows", "rows.jsonl").output
    for text in ("add, model one ", "max_batch ", "timeout ", "for one worker on Redis"):
        assert text in output


def test_it_says_what_compiling_the_model_would_bring(invoke: Invoke) -> None:
    pytest.importorskip("skl2onnx")
    found = json.loads(invoke("doctor", "app:add", "--rows", "rows.jsonl", "--json").stdout)["examination"]
    assert list(found["compiled"]["seconds"]) == ["1", "24"]
    assert 0.0 <= found["compiled"]["difference"] < 1e-9
    output = " ".join(invoke("doctor", "app:add", "--rows", "rows.jsonl").output.split())
    assert "compiled 1: " in output
    assert 'Artefact(..., compile="onnx")' in output


def test_it_says_nothing_of_a_model_that_cannot_be_compiled(invoke: Invoke, folder: Path) -> None:
    model = TransformedTargetRegressor(LinearRegression(), func=np.log1p, inverse_func=np.expm1)
    skops.io.dump(model.fit([[0.0], [9.0]], [0.0, 9.0]), folder / "one.skops")
    result = invoke("doctor", "app:add", "--rows", "rows.jsonl")
    assert (result.exit_code, "compiled " in result.output) == (0, False)


def test_without_rows_it_says_how_to_give_them(invoke: Invoke) -> None:
    result = invoke("doctor", "app:add")
    assert result.exit_code == 2
    assert "add has no golden rows; give example events: --rows" in " ".join(result.output.split())


def test_of_a_slow_predictor_only_the_sizes_are_measured_that_there_is_time_for(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call takes 0.1 s: after the first size, 0.6 s would be needed for the next and what follows."""
    monkeypatch.setattr(measurements, "_BUDGET", 0.5)
    monkeypatch.setattr(measurements, "_ENOUGH", 0.05)
    result = invoke("doctor", "app:slow", "--rows", "rows.jsonl", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [one["size"] for one in report["examination"]["batches"]] == [1]
    assert report["advice"]["rate"] <= 10.0
    assert "a call with 1 events takes 0.1 s: larger batches were not measured" in result.output


def test_of_a_predictor_slower_than_that_one_call_is_measured(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "_BUDGET", 0.1)
    result = invoke("doctor", "app:slow", "--rows", "rows.jsonl", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["examination"]
    assert [found[name] for name in ("cores", "lock", "worker", "compiled")] == [None] * 4
    assert " for one worker" in invoke("doctor", "app:slow", "--rows", "rows.jsonl").output


@pytest.mark.parametrize(
    ("predictor", "message"),
    [
        ("show", "error: show is a consumer; the doctor examines predictors"),
        ("single", "error: single fails with 1 of the example events, which may be repeated: ValueError"),
        ("distinct", "error: distinct fails with 4 of the example events, which may be repeated: ValueError"),
    ],
)
def test_what_cannot_be_examined_is_refused(invoke: Invoke, predictor: str, message: str) -> None:
    result = invoke("doctor", f"app:{predictor}", "--rows", "rows.jsonl")
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_a_challenger_of_the_settings_is_examined(invoke: Invoke, folder: Path) -> None:
    (folder / "eventml.toml").write_text('[consumer.add.challenger.two]\nmodel = "one.skops"\n')
    result = invoke("doctor", "app:add.challenger.two", "--rows", "rows.jsonl", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["examination"]["predictor"] == "add.challenger.two"


def test_batches_are_advised_though_each_call_is_slow() -> None:
    """A call takes two seconds, whatever it holds."""
    batches = [BatchCost(size, 2.0 + size / 1000, same_bits=True) for size in (1, 2, 4, 8)]
    assert advise(examination(batches)).max_batch == 8


def examination(batches: list[BatchCost], **values: Any) -> Examination:
    plain: dict[str, Any] = {
        "predictor": "p", "model": ("m", "1"), "load_seconds": 0.0, "load_memory": 0,
        "cores": 1.0, "lock": 0.0, "worker": None, "turn": 1e-8,
    }  # fmt: skip
    return Examination(batches=batches, **{**plain, **values})


costs = st.lists(st.floats(1e-5, 3.0), min_size=1, max_size=8).map(
    lambda seconds: [BatchCost(2**power, one, same_bits=True) for power, one in enumerate(seconds)]
)


@given(costs, st.floats(0.001, 1e6))
def test_the_advice_is_a_size_near_the_best_rate(batches: list[BatchCost], wanted: float) -> None:
    advice = advise(examination(batches), wanted)
    chosen = next(one for one in batches if one.size == advice.max_batch)
    allowed = [one for one in batches if one.seconds <= max(1.0, 1.5 * batches[0].seconds)]
    assert chosen in allowed
    assert chosen.rate >= 0.95 * max(one.rate for one in allowed)
    assert advice.timeout >= 5.0
    assert advice.workers is not None
    assert advice.workers * advice.rate >= wanted * 0.999999


@pytest.mark.parametrize(
    ("worker", "seconds"),
    [(1 / 2e-6, 2e-6 + 0.52 * 2e-6 + 1e-6), (1 / 90e-6, 90e-6 + 6.5e-6 + 1e-6), (None, 30e-6)],
)
def test_redis_is_added_to_the_time_of_a_worker_in_memory(worker: float | None, seconds: float) -> None:
    """A turn takes 10 ns: an event 0.9 µs more, a batch of 1,000 events 100 µs; the slowdown is bounded."""
    found = examination([BatchCost(1000, 0.03, same_bits=True)], worker=worker)
    assert advise(found).rate == pytest.approx(1 / seconds)


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"cores": 1.9}, "a call uses 1.9 cores"),
        ({"lock": 0.8}, "for 80% of its time"),
        ({"batches": [BatchCost(1, 2.5, same_bits=True)]}, "a single event takes 2.5 s"),
        ({"batches": [BatchCost(1, 0.1, same_bits=False)]}, "depends in its last bits"),
        ({"warnings": ["saved with version 1.5"]}, "saved with version 1.5"),
    ],
)
def test_what_hurts_is_warned_of(values: dict[str, Any], warning: str) -> None:
    batches = values.pop("batches", [BatchCost(1, 0.1, same_bits=True)])
    found = advise(examination(batches, **values)).warnings
    assert len(found) == 1
    assert warning in found[0]


@pytest.mark.parametrize("handler", ["late", "aged"])
def test_events_that_fail_or_age_later_do_not_hold_the_doctor_up(
    invoke: Invoke, folder: Path, handler: str
) -> None:
    """Of many rows only the first ones are called alone: a later one may fail in the worker."""
    (folder / "app.py").write_text(f"""{APP}
@bus.predictor("numbers", to="sums", max_batch=4)
def late(numbers: list[Number]) -> list[float]:
    time.sleep(0.1)
    if any(number.x == 30 for number in numbers):
        raise ConnectionError("of row 30")
    return [0.0 for number in numbers]


@bus.predictor("numbers", to="sums", max_batch=4, max_age=0.2)
def aged(numbers: list[Number]) -> list[float]:
    time.sleep(0.01)
    return [0.0 for number in numbers]
""")
    (folder / "rows.jsonl").write_text("\n".join(f'{{"x": {n}}}' for n in range(31)))
    result = invoke("doctor", f"app:{handler}", "--rows", "rows.jsonl", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    if handler == "late":
        assert report["examination"]["worker"] is None
        assert "a worker was not measured" in result.output
    assert report["advice"]["rate"] < (41 if handler == "late" else 401)
