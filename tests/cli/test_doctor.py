"""`eventml doctor`: what a predictor costs, and the advice that follows from it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.doctor import BatchCost, Examination, advise
from tests.model_updates.conftest import ModelFile

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Invoke

APP = """
import eventml
import msgspec

bus = eventml.Bus("app")


class Number(msgspec.Struct):
    x: float


@bus.predictor("numbers", to="sums", model="one.skops", max_batch=24, start="latest", dedupe_window=10)
def add(numbers: list[Number], model) -> list[float]:
    return model.predict([[number.x] for number in numbers])
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
    assert found["streamed"] > 0
    assert advice["max_batch"] in {1, 2, 4, 8, 16, 24}
    assert advice["workers"] == max(-int(-1e9 // advice["rate"]), 1)


def test_its_report_names_what_to_set(invoke: Invoke) -> None:
    output = invoke("doctor", "app:add", "--rows", "rows.jsonl").output
    for text in ("add, model one ", "max_batch ", "timeout ", "for one worker, without the cost of a broker"):
        assert text in output


def test_without_rows_it_says_how_to_give_them(invoke: Invoke) -> None:
    result = invoke("doctor", "app:add")
    assert result.exit_code == 2
    assert "add has no golden rows; give example events: --rows" in " ".join(result.output.split())


def examination(batches: list[BatchCost], **values: Any) -> Examination:
    plain: dict[str, Any] = {
        "predictor": "p", "model": ("m", "1"), "load_seconds": 0.0, "load_memory": 0,
        "peak_memory": 0, "cores": 1.0, "lock": 0.0, "streamed": 1e9,
    }  # fmt: skip
    return Examination(batches=batches, **{**plain, **values})


costs = st.lists(st.floats(1e-5, 3.0), min_size=1, max_size=8).map(
    lambda seconds: [BatchCost(2**power, one, same_bits=True) for power, one in enumerate(seconds)]
)


@given(costs, st.floats(0.001, 1e6))
def test_the_advice_is_a_size_near_the_best_rate(batches: list[BatchCost], wanted: float) -> None:
    advice = advise(examination(batches), wanted)
    chosen = next(one for one in batches if one.size == advice.max_batch)
    allowed = [one for one in batches if one.seconds <= 1.0] or batches[:1]
    assert chosen in allowed
    assert chosen.rate >= 0.95 * max(one.rate for one in allowed)
    assert advice.timeout >= 5.0
    assert advice.workers is not None
    assert advice.workers * advice.rate >= wanted * 0.999999


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
