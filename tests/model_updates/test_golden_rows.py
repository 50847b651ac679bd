"""Golden rows: a model that fails them does not start, and does not take over."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec
import pyarrow as pa
import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from eventml import Bus, Model, ModelError
from eventml.cli.check import check_bus
from eventml.runtime.model_versions import golden_rows
from eventml.runtime.model_versions.golden_rows import is_near
from tests.model_updates.test_model_updates import Number, Sum, adding, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.model_updates.conftest import ModelFile

pytestmark = pytest.mark.anyio


def lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    return str(path)


async def version(bus: Bus) -> str:
    async with bus.loaded_handlers() as [loaded]:
        assert loaded.model is not None
        return loaded.model.version


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_a_model_must_predict_what_was_recorded(
    model_file: ModelFile, tmp_path: Path, form: str
) -> None:
    rows: list[dict[str, Any]] = [{"x": 1.0, "prediction": {"total": 2.0}}, {"x": 5.0, "prediction": None}]
    golden = tmp_path / f"golden.{form}"
    if form == "jsonl":
        lines(golden, *rows)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), golden)
    bus = adding(model_file.path, golden=str(golden), golden_tolerance=0.5)
    [first] = model_file.adds
    async with running(bus) as run:
        assert await run.answer(1.0) == (2.0, first)
        model_file.replace(1.75)
        await run.until(lambda: run.stats.models_refused == 1)
        assert "row 1: it predicts" in run.stats.model_refused
        assert "golden_tolerance is 0.5" in run.stats.model_refused
        assert await run.answer(1.0) == (2.0, first)
        near = model_file.replace(1.25)
        await run.until(lambda: run.stats.model_updates == 1)
        assert await run.answer(1.0) == (2.25, near)


async def test_a_model_that_answers_nan_does_not_take_over(model_file: ModelFile, tmp_path: Path) -> None:
    golden = lines(tmp_path / "golden.jsonl", {"x": 1.0})
    async with running(adding(model_file.path, golden=golden)) as run:
        model_file.replace(float("nan"))
        await run.until(lambda: run.stats.models_refused == 1)
        assert "fails the golden rows" in run.stats.model_refused
        assert (await run.answer(1.0))[0] == 2.0


async def test_a_model_that_fails_does_not_start(model_file: ModelFile, tmp_path: Path) -> None:
    golden = lines(tmp_path / "golden.jsonl", {"x": 1.0, "prediction": {"total": 3.0}})
    bus = adding(model_file.path, golden=golden)
    with pytest.raises(
        ModelError, match=r'row 1: it predicts \{"total":2.0\}, and \{"total":3.0\} is recorded'
    ):
        await version(bus)
    report = await check_bus(bus, connect=False)
    assert [problem for problem in report.problems if "golden" in problem]


async def test_a_number_recorded_for_an_object_is_refused_with_what_to_record(
    model_file: ModelFile, tmp_path: Path
) -> None:
    golden = lines(tmp_path / "golden.jsonl", {"x": 1.0, "prediction": 2.0})
    with pytest.raises(ModelError, match=r"2\.0 is recorded \(record an object that has some of these"):
        await version(adding(model_file.path, golden=golden))


async def test_the_file_is_read_once_for_the_check_and_the_recorded_predictions(
    model_file: ModelFile, tmp_path: Path
) -> None:
    golden = lines(tmp_path / "golden.jsonl", {"x": 1.0, "prediction": {"total": 2.0}})
    bus = adding(model_file.path, golden=golden)
    with mock.patch.object(golden_rows, "_rows", wraps=golden_rows._rows) as read:
        async with bus.loaded_handlers() as [loaded]:
            assert sum(loaded.profile.counts) == 1
    assert read.call_count == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "there are no rows"),
        (b"[1]", "cannot be read"),
        (b"x\n1.0\n", r"rows are read from Parquet \(FILE.parquet\), or from a JSON object in each line"),
        (b'{"x": "one"}', "row 1 is no event of add"),
        (b'{"x": 1.0}\n{"y": 1.0}', "row 2 is no event of add"),
    ],
)
async def test_golden_rows_that_cannot_be_used_are_refused(
    model_file: ModelFile, tmp_path: Path, content: bytes | None, message: str
) -> None:
    golden = tmp_path / "golden.jsonl"
    if content is not None:
        await to_thread.run_sync(golden.write_bytes, content)
    with pytest.raises(ModelError, match=message):
        await version(adding(model_file.path, golden=str(golden)))


class Timed(msgspec.Struct):
    at: dt.datetime


async def test_a_bare_number_is_recorded_as_one_and_parquet_keeps_its_types(tmp_path: Path) -> None:
    golden = tmp_path / "golden.parquet"
    moment = dt.datetime(2026, 1, 1, 5, tzinfo=dt.UTC)
    parquet.write_table(pa.Table.from_pylist([{"at": moment, "prediction": 5.0}]), golden)
    bus = Bus("hours")

    @bus.predictor("times", to="hours", model=Model(None, "m", "1"), golden=str(golden))
    async def hour(time: Timed, model: Any) -> float:
        del model
        return float(time.at.hour)

    assert await version(bus) == "1"


values = st.recursive(
    st.none() | st.booleans() | st.text(max_size=3) | st.floats(-1e9, 1e9) | st.integers(-9, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(values, st.floats(0, 10))
def test_a_prediction_is_near_itself(value: Any, tolerance: float) -> None:
    assert is_near(value, value, tolerance)


@given(st.floats(-1e6, 1e6), st.floats(-100, 100), st.floats(0, 100))
def test_numbers_are_near_up_to_the_tolerance(number: float, difference: float, tolerance: float) -> None:
    other = number + difference
    assert is_near({"a": [other], "more": 1}, {"a": [number]}, tolerance) is (
        abs(other - number) <= tolerance
    )


@pytest.mark.parametrize("predicted", [True, "1", None, [1.0], {"a": 1.0}])
def test_what_is_no_number_is_near_no_number(predicted: Any) -> None:
    assert not is_near(predicted, 1.0, 100.0)


def test_golden_rows_are_for_predictors_with_a_model() -> None:
    bus = Bus("sums")
    with pytest.raises(Exception, match="golden: it is for predictors with a model"):

        @bus.predictor("numbers", to="sums", golden="rows.parquet")
        def add(numbers: list[Number]) -> list[Sum]:
            raise NotImplementedError


async def test_they_are_predicted_in_batches_of_the_handler(tmp_path: Path) -> None:
    golden = lines(tmp_path / "golden.jsonl", *({"x": float(n), "prediction": float(n)} for n in range(10)))
    sizes: list[int] = []
    bus = Bus("sums")

    @bus.predictor("numbers", to="same", model=Model(None, "m", "1"), golden=golden, max_batch=4)
    def same(numbers: list[Number], model: Any) -> list[float]:
        del model
        sizes.append(len(numbers))
        return [number.x for number in numbers]

    assert await version(bus) == "1"
    assert sizes == [4, 4, 2]


async def test_a_list_of_one_output_is_recorded_as_a_list(tmp_path: Path) -> None:
    golden = lines(tmp_path / "golden.jsonl", {"x": 1.0, "prediction": [{"total": 1.0}]})
    bus = Bus("sums")

    @bus.predictor("numbers", to="sums", model=Model(None, "m", "1"), golden=golden)
    def lists(number: Number, model: Any) -> list[Sum]:
        del model
        return [Sum(number.x)]

    assert await version(bus) == "1"


class Timestamped(msgspec.Struct):
    at: dt.datetime
    price: float


class Tomorrow(msgspec.Struct):
    at: dt.datetime
    price: float


async def test_parquet_may_have_nanoseconds_and_decimals(tmp_path: Path) -> None:
    golden = tmp_path / "golden.parquet"
    at, price = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), decimal.Decimal("1.25")
    times = pa.timestamp("ns", "UTC")
    predicted = pa.struct([("at", times), ("price", pa.decimal128(9, 2))])
    rows = [{"at": at, "price": price, "prediction": {"at": at + dt.timedelta(1), "price": price}}]
    schema = pa.schema([("at", times), ("price", pa.decimal128(9, 2)), ("prediction", predicted)])
    parquet.write_table(pa.Table.from_pylist(rows, schema), golden)
    bus = Bus("days")

    @bus.predictor("times", to="tomorrow", model=Model(None, "m", "1"), golden=str(golden))
    def tomorrow(event: Timestamped, model: Any) -> Tomorrow:
        del model
        return Tomorrow(event.at + dt.timedelta(1), event.price)

    assert await version(bus) == "1"


async def test_a_version_is_tried_again_with_other_golden_rows(model_file: ModelFile, tmp_path: Path) -> None:
    golden = tmp_path / "golden.jsonl"
    lines(golden, {"x": 1.0, "prediction": {"total": 2.0}})
    async with running(adding(model_file.path, golden=str(golden))) as run:
        second = model_file.replace(10.0)
        await run.until(lambda: run.stats.models_refused == 1)
        new = tmp_path / "new.jsonl"
        lines(new, {"x": 1.0, "prediction": {"total": 11.0}})
        await to_thread.run_sync(new.replace, golden)
        await run.until(lambda: run.stats.model_updates == 1)
        assert await run.answer(1.0) == (11.0, second)
        assert run.stats.model_refused == ""


async def test_a_version_is_tried_again_after_an_outage(model_file: ModelFile, tmp_path: Path) -> None:
    """The handler needs a service that is down while the golden rows are predicted."""
    golden = lines(tmp_path / "golden.jsonl", {"x": -1.0})
    down: list[bool] = []
    bus = Bus("sums")

    @bus.predictor("numbers", to="sums", model=str(model_file.path), model_poll=0.01, golden=golden)
    def add(numbers: list[Number], model: Any) -> list[Sum]:
        if down and numbers[0].x == -1.0:
            raise ConnectionError("the service is down")
        return [Sum(float(total)) for total in model.predict([[number.x] for number in numbers])]

    async with running(bus) as run:
        down.append(True)
        second = model_file.replace(10.0)
        await run.until(lambda: "the service is down" in run.stats.model_refused)
        down.clear()
        await run.until(lambda: run.stats.model_updates == 1)
        assert await run.answer(1.0) == (11.0, second)
        assert run.stats.models_refused == 0
