"""Handlers of frames on a bus: registered, called, bisected, timed out, given pipelines."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import msgspec
import numpy as np  # noqa: TC002 - the bus reads the annotations at run time
import pandas as pd
import polars as pl
import pyarrow as pa  # noqa: TC002 - as above
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from eventml import Bus, Prediction
from eventml.errors import MissingExtraError, OutputError, RegistrationError
from eventml.frames import columns as frame_columns
from eventml.testing import TestBus

pytestmark = pytest.mark.anyio


class Ride(msgspec.Struct):
    ride_id: str
    borough: str
    distance: float
    passengers: int | None = None


class Predicted(msgspec.Struct):
    ride_id: str
    minutes: float


RIDES = [
    Ride(f"r{place}", ("queens", "bronx", "brooklyn")[place % 3], place / 4, place % 4 or None)
    for place in range(64)
]


@pytest.fixture
def bus() -> Bus:
    return Bus("rides")


def predicted() -> list[Predicted]:
    return [Predicted(ride.ride_id, ride.distance * 2) for ride in RIDES]


async def outcome(bus: Bus, **options: Any) -> list[Any]:
    async with TestBus(bus, raise_failures=True, **options) as t:
        await t.publish_many("rides", RIDES)
        return t.published("out")


async def test_pandas_in_and_a_frame_out(bus: Bus) -> None:
    @bus.predictor("rides", to="out", event_type=Ride, output_type=Predicted)
    def minutes(rides: pd.DataFrame) -> pd.DataFrame:
        return rides.assign(minutes=rides["distance"] * 2)[["ride_id", "minutes"]]

    assert await outcome(bus) == predicted()


async def test_polars_in_and_a_frame_out_of_a_coroutine(bus: Bus) -> None:
    @bus.predictor("rides", to="out", event_type=Ride, output_type=Predicted)
    async def minutes(rides: pl.DataFrame) -> pl.DataFrame:
        return rides.select("ride_id", minutes=pl.col("distance") * 2)

    assert await outcome(bus) == predicted()


async def test_an_arrow_table_in_and_a_list_of_outputs_out(bus: Bus) -> None:
    @bus.predictor("rides", to="out", event_type=Ride)
    def minutes(rides: pa.Table) -> list[Predicted]:
        return [Predicted(row["ride_id"], row["distance"] * 2) for row in rides.to_pylist()]

    assert await outcome(bus) == predicted()


@pytest.mark.parametrize(
    "column",
    [
        lambda rides: rides["distance"],
        lambda rides: rides["distance"].to_numpy(),
        lambda rides: rides["distance"].tolist(),
    ],
)
async def test_a_column_of_numbers_becomes_predictions(bus: Bus, column: Any) -> None:
    @bus.predictor("rides", to="out", event_type=Ride)
    def distance(rides: pd.DataFrame) -> pd.Series:
        return column(rides)

    made = await outcome(bus)
    assert [one.value for one in made] == [ride.distance for ride in RIDES]
    assert {type(one) for one in made} == {Prediction}


async def test_a_polars_series_becomes_predictions(bus: Bus) -> None:
    @bus.predictor("rides", to="out", event_type=Ride)
    def distance(rides: pl.DataFrame) -> pl.Series:
        return rides["distance"]

    made = await outcome(bus)
    assert [one.value for one in made] == [ride.distance for ride in RIDES]


async def test_a_consumer_takes_frames_too(bus: Bus) -> None:
    seen: list[str] = []

    @bus.consumer("rides", event_type=Ride)
    def look(rides: pd.DataFrame) -> None:
        seen.extend(rides["ride_id"])

    async with TestBus(bus) as t:
        await t.publish_many("rides", RIDES)
    assert seen == [ride.ride_id for ride in RIDES]


def pipeline(estimator: Any) -> Any:
    columns = ColumnTransformer(
        [
            ("words", OneHotEncoder(handle_unknown="ignore"), ["borough"]),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["distance", "passengers"]),
        ]
    )
    return make_pipeline(columns, estimator)


TRAINING = pd.DataFrame([msgspec.to_builtins(ride) for ride in RIDES])
"""As a notebook would have it: made of records, with no eventml in it."""


async def test_a_pipeline_of_column_transformers_works_unchanged(bus: Bus) -> None:
    model = pipeline(Ridge()).fit(TRAINING, TRAINING["distance"] * 3)

    @bus.predictor("rides", to="out", event_type=Ride, model=lambda: model)
    def minutes(rides: pd.DataFrame, model: Any) -> np.ndarray[Any, Any]:
        return model.predict(rides)  # type: ignore[no-any-return]  # scikit-learn ships no types

    made = await outcome(bus)
    assert [one.value for one in made] == pytest.approx(model.predict(TRAINING).tolist(), rel=1e-12)


async def test_a_batch_of_one_with_nothing_in_it_has_the_dtypes_of_the_training(bus: Bus) -> None:
    model = pipeline(LogisticRegression()).fit(TRAINING, TRAINING["distance"] > 3)
    kinds: list[Any] = []

    @bus.predictor("rides", to="out", event_type=Ride, model=lambda: model)
    def long(rides: pd.DataFrame, model: Any) -> Any:
        kinds.append(rides.dtypes)
        return model.predict_proba(rides)[:, 1]

    async with TestBus(bus, raise_failures=True) as t:
        await t.publish("rides", Ride("none", "nowhere", 1, None))
        [answer] = t.published("out")
    assert 0 < answer["value"] < 1
    assert (kinds[0] == TRAINING.dtypes).all()


async def test_one_bad_row_costs_itself_only(bus: Bus) -> None:
    sizes = []

    @bus.predictor("rides", to="out", event_type=Ride, output_type=Predicted, retries=0)
    def minutes(rides: pd.DataFrame) -> pd.DataFrame:
        assert list(rides.index) == list(range(len(rides)))
        sizes.append(len(rides))
        if (rides["ride_id"] == "r13").any():
            raise ValueError("r13 is not to be had")
        return rides.assign(minutes=rides["distance"] * 2)[["ride_id", "minutes"]]

    async with TestBus(bus) as t:
        await t.publish_many("rides", RIDES)
        made = t.published("out")
        [letter] = t.dead_letters()
    assert sorted(made, key=lambda one: int(one.ride_id[1:])) == [
        one for one in predicted() if one.ride_id != "r13"
    ]
    assert isinstance(letter.error, ValueError)
    assert msgspec.json.decode(letter.record.value)["ride_id"] == "r13"
    assert max(sizes) > min(sizes) == 1


async def test_an_event_with_no_place_in_a_column_costs_itself_only(bus: Bus) -> None:
    class Counted(msgspec.Struct):
        count: int

    @bus.predictor("counts", to="out", event_type=Counted)
    def count(counts: pd.DataFrame) -> pd.Series:
        return counts["count"]

    async with TestBus(bus) as t:
        await t.publish_many("counts", [Counted(1), Counted(2**63), Counted(3)])
        assert sorted(one.value for one in t.published("out")) == [1, 3]
        [letter] = t.dead_letters()
    assert "count" in letter.reason
    assert "int64" in letter.reason
    assert letter.attempts == 1


@pytest.mark.parametrize("change", [lambda rides: rides.sort_values("distance", ascending=False)])
async def test_rows_that_come_back_in_another_order_are_never_given_to_the_wrong_event(
    bus: Bus, change: Any
) -> None:
    @bus.predictor("rides", to="out", event_type=Ride, retries=0)
    def distance(rides: pd.DataFrame) -> pd.Series:
        return change(rides)["distance"]

    async with TestBus(bus) as t:
        await t.publish_many("rides", RIDES)
        # Alone, each is in its place again.
        assert {one.input: one.value for one in t.published("out")}.keys() == {
            record.id for record in t.records("rides")
        }
        by_id = {record.id: msgspec.json.decode(record.value)["distance"] for record in t.records("rides")}
        assert all(one.value == by_id[one.input] for one in t.published("out"))


async def test_a_frame_that_is_short_fails(bus: Bus) -> None:
    @bus.predictor("rides", to="out", event_type=Ride, retries=0)
    def distance(rides: pd.DataFrame) -> pd.Series:
        return rides["distance"].iloc[:-1]

    async with TestBus(bus) as t:
        await t.publish("rides", RIDES[0])
        [letter] = t.dead_letters()
    assert letter.exception == OutputError.__name__


@pytest.mark.parametrize("frames", [True, False])
async def test_numbers_where_rows_are_wanted_fail(bus: Bus, frames: bool) -> None:
    if frames:

        @bus.predictor("rides", to="out", event_type=Ride, output_type=Predicted, retries=0)
        def minutes(rides: pd.DataFrame) -> pd.Series:
            return rides["distance"]
    else:

        @bus.predictor("rides", to="out", retries=0)
        def minutes(rides: list[Ride]) -> list[Predicted]:
            return [ride.distance for ride in rides]  # type: ignore[misc]  # which is the point

    async with TestBus(bus) as t:
        await t.publish("rides", RIDES[0])
        [letter] = t.dead_letters()
    assert "returned numbers where its annotation says Predicted" in letter.reason


async def test_nan_in_a_frame_fails(bus: Bus) -> None:
    @bus.predictor("rides", to="out", event_type=Ride, output_type=Predicted, retries=0)
    def minutes(rides: pd.DataFrame) -> pd.DataFrame:
        return rides[["ride_id"]].assign(minutes=rides["passengers"])

    async with TestBus(bus) as t:
        await t.publish_many("rides", RIDES[:4])
        assert {one.ride_id for one in t.published("out")} == {"r1", "r2", "r3"}
        [letter] = t.dead_letters()
    assert "minutes is not a finite number" in letter.reason


async def test_a_call_that_hangs_is_given_up(bus: Bus) -> None:
    release = threading.Event()

    @bus.predictor("rides", to="out", event_type=Ride, timeout=0.2, retries=0)
    def distance(rides: pd.DataFrame) -> pd.Series:
        if (rides["ride_id"] == "r0").any():
            release.wait(20)
        return rides["distance"]

    try:
        async with TestBus(bus) as t:
            await t.publish_many("rides", RIDES[:2])
            [letter] = t.dead_letters()
            assert [one.value for one in t.published("out")] == [RIDES[1].distance]
        assert letter.exception == "HandlerTimeoutError"
    finally:
        release.set()


def test_a_frame_without_an_event_type_is_refused(bus: Bus) -> None:
    with pytest.raises(RegistrationError, match=r"minutes: a pandas DataFrame does not.*event_type="):

        @bus.predictor("rides", to="out")
        def minutes(rides: pd.DataFrame) -> None: ...


def test_an_event_type_without_columns_is_refused_with_the_handlers_name(bus: Bus) -> None:
    class Nested(msgspec.Struct):
        ride: Ride

    with pytest.raises(RegistrationError, match=r"minutes: Nested\.ride cannot be a column"):

        @bus.predictor("rides", to="out", event_type=Nested)
        def minutes(rides: pl.DataFrame) -> None: ...


def test_a_consumer_with_an_output_type_is_refused(bus: Bus) -> None:
    with pytest.raises(RegistrationError, match="remove output_type"):

        @bus.consumer("rides", event_type=Ride, output_type=Predicted)
        def minutes(rides: pa.Table) -> None: ...


def test_without_pyarrow_it_is_said_what_to_install(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_columns, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"polars.*pip install 'eventml\[polars\]'"):

        @bus.predictor("rides", to="out", event_type=Ride)
        def minutes(rides: pl.DataFrame) -> None: ...


def test_nothing_of_it_is_imported_for_handlers_of_events() -> None:
    code = (
        "import sys, msgspec, eventml\n"
        "class Ride(msgspec.Struct): distance: float\n"
        "bus = eventml.Bus('rides')\n"
        "@bus.predictor('rides', to='out')\n"
        "def minutes(rides: list[Ride]) -> list[float]: return [ride.distance for ride in rides]\n"
        "from eventml.testing import TestBus\n"
        "import asyncio\n"
        "async def main():\n"
        "    async with TestBus(bus) as t:\n"
        "        await t.publish('rides', Ride(2.0))\n"
        "        assert t.published('out')[0].value == 2.0\n"
        "asyncio.run(main())\n"
        "print(*({'pandas', 'polars', 'pyarrow', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert done.stdout.split() == []
