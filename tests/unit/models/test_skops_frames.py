"""Models fitted to data frames load from skops files with no trust given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

if TYPE_CHECKING:
    from collections.abc import Callable

pd: Any = pytest.importorskip("pandas", reason="data frames are optional")

NUMBERS = list("abcd")
TABLE = pd.DataFrame(np.random.default_rng(0).random((60, 4)), columns=NUMBERS).assign(
    zone=[f"z{i % 3}" for i in range(60)]
)
AMOUNT = TABLE[NUMBERS].sum(axis="columns").to_numpy()
KIND = np.arange(60) % 3

CASES: dict[str, tuple[Any, Any, Any]] = {
    "boosting of categories": (
        HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=5),
        TABLE.astype({"zone": "category"}),
        KIND,
    ),
    "columns by kind and name": (
        make_pipeline(
            ColumnTransformer(
                [
                    ("zone", OneHotEncoder(), make_column_selector(dtype_exclude=np.number)),
                    ("log", FunctionTransformer(np.log1p), ["c"]),
                    ("scale", StandardScaler(), make_column_selector(pattern="^[ab]$")),
                ],
                remainder="passthrough",
            ),
            Ridge(),
        ),
        TABLE,
        AMOUNT,
    ),
    "frames between steps": (
        make_pipeline(StandardScaler(), Ridge()).set_output(transform="pandas"),
        TABLE[NUMBERS],
        AMOUNT,
    ),
    "ordinals of a type": (OrdinalEncoder(dtype=np.int32), TABLE[["zone"]], None),
}


@pytest.mark.parametrize("case", CASES)
def test_it_loads_untrusted_and_answers_as_before(
    case: str, assert_survives: Callable[[Any, Any], Any]
) -> None:
    unfitted, inputs, target = CASES[case]
    assert_survives(unfitted.fit(inputs, target), inputs)
