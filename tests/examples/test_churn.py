"""The parts of the churn example: customers, training, the predictor, the tables and the month's report."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from eventml.errors import ModelError
from eventml.testing import TestBus
from examples.churn import train
from examples.churn.app import bus, churn, trained
from examples.churn.customers import COLUMNS, CustomersError, read
from examples.churn.events import LIKELY, ChurnPredicted
from examples.churn.folder import ENVIRONMENT, folder
from examples.churn.generator import customers
from examples.churn.month import month_before
from examples.churn.report import examine
from examples.churn.store import Store, StoreError, row_id
from examples.churn.training import FEATURES, Training, read_training

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module", autouse=True)
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(tmp_path_factory.mktemp("churn")))
        yield train.train(train.generated(), "a test")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path}/churn.db")
    yield made
    made.close()


def rows(month: str, **choices: Any) -> list[dict[str, Any]]:
    """A month's customers as a producer would publish them."""
    columns = customers(month, **choices)
    columns.pop("churned")
    named = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [{"id": row_id(month, row["customer_id"]), "month": month, **row} for row in named]


def write_predictions(store: Store, month: str, version: str, probabilities: list[float]) -> None:
    """A table as `eventml score` makes it."""
    with store._begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE IF NOT EXISTS predictions "
                "(id TEXT, model_version TEXT, month TEXT, probability REAL, likely BOOLEAN)"
            )
        )
        values = [
            {
                "id": row_id(month, f"C{n:05}"),
                "version": version,
                "month": month,
                "p": p,
                "likely": p >= LIKELY,
            }
            for n, p in enumerate(probabilities)
        ]
        connection.execute(
            sa.text("INSERT INTO predictions VALUES (:id, :version, :month, :p, :likely)"), values
        )


def test_customers_are_the_same_for_the_same_month_and_seed() -> None:
    assert customers("2024-06", size=50) == customers("2024-06", size=50)
    assert customers("2024-06", size=50) != customers("2024-07", size=50)
    assert customers("2024-06", size=50) != customers("2024-06", size=50, seed=1)


def test_more_leave_after_a_price_rise() -> None:
    assert np.mean(customers("2024-06", price_rise=True)["churned"]) > 2 * np.mean(
        customers("2024-06")["churned"]
    )


@given(st.dates(date(1, 2, 1), date(9999, 12, 31)))
def test_month_before_is_the_one_that_ends_where_this_begins(day: date) -> None:
    before = date.fromisoformat(f"{month_before(day.isoformat()[:7])}-01")
    assert (day.year * 12 + day.month) - (before.year * 12 + before.month) == 1


def test_model_is_better_than_always_saying_the_share(training: Training) -> None:
    assert training.brier < 0.9 * training.baseline_brier
    assert training.auc > 0.75


def test_same_customers_give_the_same_version_and_others_another(training: Training) -> None:
    assert train.train(train.generated(), "again").version == training.version
    try:
        assert train.train(train.generated()[:10_000], "fewer").version != training.version
    finally:
        train.train(train.generated(), "a test")


@pytest.mark.parametrize(
    "table", [customers("2024-01", size=50), {**customers("2024-01"), "churned": [True] * 3000}]
)
def test_too_little_to_learn_from_is_an_error_that_says_how_much_there_is(table: Any) -> None:
    with pytest.raises(ModelError, match=rf"{len(table['churned'])} customers of whom \d+ left"):
        train.train(pd.DataFrame(table), "a test")


@pytest.mark.anyio
async def test_predictor_gives_what_the_pipeline_gives(training: Training) -> None:
    events = rows("2024-06", size=300)
    async with TestBus(bus, raise_failures=True) as t:
        await t.publish_many("customers", events)
        predicted, records = t.published("churn"), t.records("churn")
    expected = trained().object.predict_proba(pd.DataFrame(events)[FEATURES])[:, 1]
    assert [one.customer_id for one in predicted] == [event["customer_id"] for event in events]
    np.testing.assert_allclose([one.probability for one in predicted], expected, rtol=1e-12)
    assert all(one.likely is (one.probability >= LIKELY) for one in predicted)
    assert records[0].id == f"2024-06/C00000/churn@{training.version}"


def test_customer_is_predicted_the_same_in_any_batch() -> None:
    frame, model = pd.DataFrame(rows("2024-06", size=300)), trained().object
    together = churn(frame, model)
    alone = [churn(frame.iloc[[row]].reset_index(drop=True), model) for row in range(0, 300, 7)]
    assert pd.concat(alone)["probability"].tolist() == together["probability"].tolist()[::7]


@pytest.mark.anyio
async def test_odd_customers_cost_only_themselves() -> None:
    good, odd, unknown = rows("2024-06", size=3)
    odd["monthly_charge"] = "a lot"
    unknown["plan"], unknown["usage_hours"] = "for ever", None
    async with TestBus(bus) as t:
        await t.publish_many("customers", [good, odd, unknown])
        predicted: list[ChurnPredicted] = t.published("churn")
        [letter] = t.dead_letters("churn")
    assert {one.customer_id for one in predicted} == {good["customer_id"], unknown["customer_id"]}
    assert "monthly_charge" in str(letter)


def csv(path: Path, **changes: Any) -> Path:
    table = pd.DataFrame(customers("2024-06", size=5)).assign(**changes)
    table.to_csv(path, index=False)
    return path


def test_customers_of_a_file_are_those_that_were_written(tmp_path: Path) -> None:
    table = read(csv(tmp_path / "c.csv"), truth=True)
    expected = pd.DataFrame(customers("2024-06", size=5))
    assert list(table.columns) == [*COLUMNS, "churned"]
    pd.testing.assert_frame_equal(table, expected[table.columns], check_dtype=False)
    assert "churned" not in read(csv(tmp_path / "c.csv")).columns


@pytest.mark.parametrize("words", ["True", "no", "1", " YES "])
def test_truth_is_read_in_several_words(tmp_path: Path, words: str) -> None:
    truth = read(csv(tmp_path / "c.csv", churned=words), truth=True)["churned"]
    assert truth.tolist() == [words != "no"] * 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"customer_id": "C1"}, "C1 stands there twice"),
        ({"customer_id": None}, "customer_id"),
        ({"churned": "perhaps"}, "'perhaps'"),
        ({"churned": None}, "churned"),
    ],
)
def test_file_of_unusable_customers_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CustomersError, match=words) as refused:
        read(csv(tmp_path / "odd.csv", **changes), truth=True)
    assert "odd.csv" in str(refused.value)


def test_cell_that_is_no_number_is_empty_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = read(csv(tmp_path / "odd.csv", monthly_charge=["a lot", 1, 2, None, "?"]))
    assert table["monthly_charge"].isna().tolist() == [True, False, False, True, True]
    assert "2 cells of column monthly_charge are no numbers" in caplog.text


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n", '"', "\xff\xfe\x00"])
def test_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "odd.csv"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CustomersError, match=r"odd\.csv"):
        read(path)


def test_a_month_is_written_in_place_of_itself(store: Store) -> None:
    store.put_customers("2024-06", customers("2024-06", size=20))
    store.put_customers("2024-07", customers("2024-07", size=30))
    store.put_customers("2024-06", customers("2024-06", size=10))
    assert (store.customers("2024-06"), store.customers("2024-07")) == (10, 30)


def test_database_that_cannot_be_used_is_an_error_of_ours(tmp_path: Path) -> None:
    for url in ("nonsense", f"sqlite:///{tmp_path}/nowhere/churn.db"):
        with pytest.raises(StoreError):
            Store(url)


def test_report_without_a_single_prediction_is_an_error_that_says_where_to_look(
    store: Store, training: Training
) -> None:
    store.put_customers("2024-06", customers("2024-06", size=10))
    with pytest.raises(StoreError, match="predictions_rejects"):
        examine(store, "2024-06", "2024-05")


def scored(store: Store, month: str, version: str, likely: int, size: int = 1_000) -> None:
    store.put_customers(month, customers(month, size=size))
    write_predictions(store, month, version, [0.9] * likely + [0.1] * (size - likely))


def test_first_month_is_compared_with_the_training_sample(store: Store, training: Training) -> None:
    likely = round(1_000 * training.likely / training.customers)
    scored(store, "2024-06", training.version, likely)
    assert examine(store, "2024-06", "2024-05").crossings == []
    scored(store, "2024-08", training.version, likely + 200)
    [crossing] = examine(store, "2024-08", "2024-07").crossings
    assert "2024-06" in crossing.message


def test_a_jump_is_judged_by_the_last_month_of_the_same_model(store: Store, training: Training) -> None:
    scored(store, "2024-05", training.version, 50)
    scored(store, "2024-06", training.version, 300)
    scored(store, "2024-07", training.version, 310)
    assert [c.limit < c.value for c in examine(store, "2024-06", "2024-05").crossings] == [True]
    assert examine(store, "2024-07", "2024-06").crossings == []
    write_predictions(store, "2024-06", "another", [0.1] * 1_000)
    assert examine(store, "2024-07", "2024-06").crossings == []


def test_report_says_how_the_month_before_turned_out(store: Store, training: Training) -> None:
    scored(store, "2024-06", training.version, 2, size=4)
    scored(store, "2024-07", training.version, 2, size=4)
    assert examine(store, "2024-07", "2024-06").truth is None
    ids = [f"C{number:05}" for number in range(4)]
    store.put_outcomes("2024-06", {"customer_id": ids, "churned": [True, False, True, False]})
    truth = examine(store, "2024-07", "2024-06").truth
    assert truth is not None
    assert truth.facts["left, of those likely to"] == "50.0%"
    assert {row["customer_id"] for row in truth.rows[:2]} == {"C00001", "C00002"}
    assert len(truth.rows) == 4


def test_folder_is_made_and_named_where_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "file" / "churn"))
    with pytest.raises(ModelError, match="CHURN_FOLDER"):
        train.train(train.generated(), "a test")
    with pytest.raises(ModelError, match=r"examples\.churn\.train"):
        read_training()
    assert folder() == tmp_path / "file" / "churn"
