"""Models compiled with ONNX: they predict what the original predicts, or are refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from eventml.errors import ModelError
from eventml.models import Artefact, compiled, current_version, load

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("skl2onnx")
pytest.importorskip("onnxruntime")

random = np.random.default_rng(0)
X = random.random((300, 3)) * [1.0, 20.0, 300.0]
GAPS = np.where(random.random(X.shape) < 0.1, np.nan, X)
AMOUNT = X[:, 0] + X[:, 1]
KIND = np.array(["short", "middle", "long"])[(AMOUNT / 8).astype(int)]
FRAME = pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=KIND)


def both(model: Any, path: Path, **options: Any) -> tuple[Any, Any]:
    """The original as it is loaded, and compiled."""
    skops.io.dump(model, path / "model.skops")
    artefact = Artefact(path / "model.skops", **options)
    return load(artefact, name="x").object, load(compiling(path, **options), name="x").object


def compiling(path: Path, **options: Any) -> Artefact:
    return Artefact(path / "model.skops", compile="onnx", **options)


MODELS = {
    "forest": RandomForestRegressor(8, random_state=0).fit(X, AMOUNT),
    "forest of gaps": RandomForestRegressor(8, random_state=0).fit(GAPS, AMOUNT),
    "forest of two": RandomForestRegressor(3, random_state=0).fit(X, np.c_[AMOUNT, X[:, 2]]),
    "boosting": GradientBoostingRegressor(n_estimators=9).fit(X, AMOUNT),
    "histogram boosting": HistGradientBoostingRegressor(max_iter=9).fit(GAPS, AMOUNT),
    "forest without a split": RandomForestRegressor(2).fit(X, np.ones(300)),
    "line": LinearRegression().fit(X, AMOUNT),
    "vote": VotingRegressor([("a", LinearRegression()), ("b", RandomForestRegressor(2))]).fit(X, AMOUNT),
    "pipeline": make_pipeline(StandardScaler(), RandomForestRegressor(4, random_state=0)).fit(X, AMOUNT),
    "classes": RandomForestClassifier(7, random_state=0).fit(X, KIND),
    "yes or no": ExtraTreesClassifier(7, random_state=0).fit(X, AMOUNT > 9),
    "classes of boosting": HistGradientBoostingClassifier(max_iter=5).fit(GAPS, KIND),
    "logistic": make_pipeline(StandardScaler(), LogisticRegression()).fit(X, KIND),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_model_predicts_what_the_original_predicts(name: str, tmp_path: Path) -> None:
    original, fast = both(MODELS[name], tmp_path)
    rows = GAPS if "gaps" in name or "histogram" in name else X
    expected, predicted = original.predict(rows), fast.predict(rows)
    assert (predicted.shape, predicted.dtype) == (expected.shape, expected.dtype)
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(predicted, expected, rtol=1e-5)
        assert not hasattr(fast, "predict_proba")
    else:
        assert fast.classes_.tolist() == original.classes_.tolist()
        np.testing.assert_allclose(fast.predict_proba(rows), original.predict_proba(rows), atol=1e-5)
        chances = np.sort(original.predict_proba(rows))
        decided = chances[:, -1] - chances[:, -2] > 1e-5
        assert (predicted == expected)[decided].all()
    assert fast.n_features_in_ == 3


def test_a_pipeline_takes_the_frames_that_it_was_fitted_with(tmp_path: Path) -> None:
    columns = ColumnTransformer([("kind", OneHotEncoder(), ["kind"]), ("rest", "passthrough", ["a", "b"])])
    fitted = make_pipeline(columns, RandomForestRegressor(5, random_state=0)).fit(FRAME, AMOUNT)
    original, fast = both(fitted, tmp_path)
    np.testing.assert_allclose(fast.predict(FRAME), original.predict(FRAME), rtol=1e-5)
    assert list(fast.feature_names_in_) == ["a", "b", "c", "kind"]


def test_a_frame_must_have_the_columns_in_their_order(tmp_path: Path) -> None:
    _, fast = both(RandomForestRegressor(2).fit(FRAME[["a", "b"]], AMOUNT), tmp_path)
    assert fast.predict(FRAME[["a", "b"]]).shape == (300,)
    assert fast.predict(X[:, :2].tolist()).shape == (300,)
    with pytest.raises(ValueError, match=r"X has the columns \['b', 'a'\]"):
        fast.predict(FRAME[["b", "a"]])
    with pytest.raises(ValueError, match="expects 2 features"):
        fast.predict(X)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_is_refused_where_the_original_refuses_it(value: float, tmp_path: Path) -> None:
    original, fast = both(MODELS["boosting"], tmp_path)
    for model in (original, fast):
        with pytest.raises(ValueError, match="X contains"):
            model.predict([[value, 1.0, 1.0]])


def test_what_a_compiled_model_does_not_have_is_said(tmp_path: Path) -> None:
    _, fast = both(MODELS["classes"], tmp_path)
    with pytest.raises(AttributeError, match="a compiled model has no 'apply'; it has predict"):
        fast.apply(X)


def test_the_version_is_not_that_of_the_original(tmp_path: Path) -> None:
    skops.io.dump(MODELS["line"], tmp_path / "model.skops")
    plain, fast = Artefact(tmp_path / "model.skops"), compiling(tmp_path)
    assert load(fast, name="x").version == f"{load(plain, name='x').version}-onnx"
    assert current_version(fast) == load(fast, name="x").version
    assert load(compiling(tmp_path, version="7"), name="x").version == "7-onnx"


def test_a_model_that_predicts_otherwise_is_refused_with_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skops.io.dump(MODELS["line"], tmp_path / "model.skops")
    monkeypatch.setattr(
        compiled.CompiledModel, "predict", lambda self, rows: self._run(0, rows).ravel() + 3.0
    )
    with pytest.raises(ModelError, match=r"for row \d+ of 512 generated for .*model.skops: a difference of"):
        load(compiling(tmp_path), name="x")


def test_the_tolerance_decides(tmp_path: Path) -> None:
    skops.io.dump(MODELS["forest"], tmp_path / "model.skops")
    with pytest.raises(ModelError, match="compile_tolerance is 0"):
        load(compiling(tmp_path, compile_tolerance=0.0), name="x")


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, "1e-5"])
def test_a_tolerance_that_is_none_is_refused(tolerance: Any) -> None:
    with pytest.raises(ModelError, match="compile_tolerance is a number from 0 on"):
        Artefact("model.skops", compile="onnx", compile_tolerance=tolerance)


def test_large_numbers_that_float32_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    """Histogram boosting compares in float64: of 20,000,001 and its neighbours float32 has every second."""
    ids = np.arange(2e7, 2e7 + 300)[:, None]
    skops.io.dump(HistGradientBoostingRegressor(max_iter=9).fit(ids, ids[:, 0] % 2), tmp_path / "model.skops")
    with pytest.raises(ModelError, match="compiled, the model predicts"):
        load(compiling(tmp_path), name="x")


def test_what_skl2onnx_cannot_convert_is_refused(tmp_path: Path) -> None:
    model = TransformedTargetRegressor(LinearRegression(), func=np.log1p, inverse_func=np.expm1)
    skops.io.dump(model.fit(X, AMOUNT), tmp_path / "model.skops")
    with pytest.raises(ModelError, match=r"skops cannot be compiled: MissingShape.*omit compile"):
        load(compiling(tmp_path), name="x")


def test_other_models_and_compilers_are_refused(tmp_path: Path) -> None:
    skops.io.dump({"a": 1}, tmp_path / "model.skops")
    with pytest.raises(ModelError, match="with up to 4096 columns, not dict"):
        load(compiling(tmp_path), name="x")
    with pytest.raises(ModelError, match='"onnx" or None'):
        Artefact("model.skops", compile="treelite")  # type: ignore[arg-type]  # what is tested
