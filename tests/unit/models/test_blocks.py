"""A row's answer is the same to the last bit, whatever rows come with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp  # type: ignore[import-untyped]  # it ships no types
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from eventml.models import in_blocks

RANDOM = np.random.default_rng(5)
ROWS = RANDOM.normal(size=(300, 17))
TRUTH = ROWS @ RANDOM.normal(size=17)
MODELS: dict[str, Any] = {
    "linear": LinearRegression().fit(ROWS, TRUTH).predict,
    "logistic": LogisticRegression().fit(ROWS, TRUTH.round() % 3).predict_proba,
    "reduced": make_pipeline(StandardScaler(), PCA(3), Ridge()).fit(ROWS, TRUTH).predict,
    "neural": MLPRegressor(hidden_layer_sizes=(9, 5), solver="lbfgs", tol=1.0, random_state=0)
    .fit(ROWS, TRUTH)
    .predict,
}
BATCHES = st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=150)


@pytest.mark.parametrize("model", MODELS)
@given(batch=BATCHES, size=st.sampled_from([16, 64]), turned=st.booleans())
def test_any_batch_gives_the_same_bits(model: str, batch: list[int], size: int, turned: bool) -> None:
    whole = in_blocks(MODELS[model], ROWS, size=size)
    rows = np.asfortranarray(ROWS[batch]) if turned else ROWS[batch]
    assert (in_blocks(MODELS[model], rows, size=size) == whole[batch]).all()


FRAME = pd.DataFrame({"zone": RANDOM.integers(0, 9, 300).astype(str), "far": ROWS[:, 0], "late": ROWS[:, 1]})


def piped(**options: Any) -> Any:
    columns = ColumnTransformer(
        [
            ("zone", OneHotEncoder(handle_unknown="ignore"), ["zone"]),
            ("rest", StandardScaler(), ["far", "late"]),
        ],
        **options,
    )
    return make_pipeline(columns, Ridge()).fit(FRAME, TRUTH)


DENSE = piped(sparse_threshold=0)
SPARSE = piped(sparse_threshold=1)


@given(batch=BATCHES)
def test_a_pipeline_of_columns_gives_the_same_bits_in_blocks(batch: list[int]) -> None:
    whole = in_blocks(DENSE.predict, FRAME, size=64)
    some = FRAME.iloc[batch].reset_index(drop=True)
    assert (in_blocks(DENSE.predict, some, size=64) == whole[batch]).all()


@given(batch=BATCHES)
def test_a_pipeline_that_stays_sparse_gives_them_as_it_is(batch: list[int]) -> None:
    """As docs/frames.md recommends."""
    assert (SPARSE.predict(FRAME.iloc[batch]) == SPARSE.predict(FRAME)[batch]).all()


def crowd(rows: Any) -> Any:
    """A model whose answer tells how many rows it was given."""
    rows = rows.toarray() if sp.issparse(rows) else np.asarray(rows)
    return rows[:, 0] + len(rows) * 1000


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize(
    "kind",
    [
        np.asarray,
        sp.csr_array,
        np.ndarray.tolist,
        pd.DataFrame,
        lambda rows: pl.DataFrame(rows, schema=["a", "b"]),
        lambda rows: pa.table({"a": rows[:, 0], "b": rows[:, 1]}),
    ],
)
def test_every_call_has_one_size_and_every_row_its_answer(count: int, kind: Any) -> None:
    rows = np.arange(2 * count).reshape(count, 2).astype(float)
    assert in_blocks(crowd, kind(rows), size=4).tolist() == [2 * place + 4000 for place in range(count)]


def test_no_rows_have_no_answers() -> None:
    assert in_blocks(crowd, np.empty((0, 2))).tolist() == []


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1"):
        in_blocks(crowd, ROWS, size=0)


def test_another_number_of_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="predict got 4 rows"):
        in_blocks(lambda rows: rows[1:, 0], ROWS, size=4)
