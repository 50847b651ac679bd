"""ONNX models, made from scikit-learn's by skl2onnx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eventml.errors import ModelError
from eventml.models import Artefact, load

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("onnxruntime")
skl2onnx: Any = pytest.importorskip("skl2onnx")

random = np.random.default_rng(0)
X = random.random((60, 3)).astype(np.float32)
AMOUNT = X.sum(axis=1)
KIND = np.array(["short", "long"])[(AMOUNT.mean() < AMOUNT).astype(int)]


def exported(model: Any, path: Path, **options: Any) -> Path:
    path.write_bytes(skl2onnx.to_onnx(model, X, **options).SerializeToString())
    return path


@pytest.mark.parametrize("estimator", [Ridge(), RandomForestRegressor(5)], ids=["line", "forest"])
@pytest.mark.parametrize("shape", [np.asarray, np.ndarray.tolist, np.float64])
def test_a_regressor_predicts_a_number_a_row(estimator: Any, shape: Any, tmp_path: Path) -> None:
    fitted = estimator.fit(X, AMOUNT)
    model = load(exported(fitted, tmp_path / "duration.onnx"), name="x")

    predicted = model.object.predict(shape(X))

    assert predicted.shape == (60,)
    np.testing.assert_allclose(predicted, fitted.predict(X), rtol=1e-4)
    assert model.name == "duration"
    assert len(model.version) == 12


def test_one_row_is_one_prediction(tmp_path: Path) -> None:
    model = load(exported(Ridge().fit(X, AMOUNT), tmp_path / "model.onnx"), name="x")
    assert model.object.predict(X[:1]).shape == (1,)


def test_a_classifier_predicts_labels_and_its_session_the_rest(tmp_path: Path) -> None:
    fitted = LogisticRegression().fit(X, KIND)
    model = load(exported(fitted, tmp_path / "model.onnx", options={"zipmap": False}), name="x")

    assert model.object.predict(X).tolist() == fitted.predict(X).tolist()
    _, chances = model.object.session.run(None, {"X": X})
    np.testing.assert_allclose(chances, fitted.predict_proba(X), rtol=1e-3)


def test_several_inputs_are_columns_by_name(tmp_path: Path) -> None:
    joined = ColumnTransformer([("scaled", StandardScaler(), [0, 1, 2])])
    fitted = make_pipeline(joined, Ridge()).fit(X, AMOUNT)
    types = skl2onnx.common.data_types
    one, two = types.FloatTensorType([None, 1]), types.FloatTensorType([None, 2])
    path = tmp_path / "model.onnx"
    path.write_bytes(skl2onnx.to_onnx(fitted, initial_types=[("a", one), ("b", two)]).SerializeToString())

    predicted = load(path, name="x").object.predict({"a": X[:, 0].tolist(), "b": X[:, 1:]})

    np.testing.assert_allclose(predicted, fitted.predict(X), rtol=1e-4)


def test_it_runs_on_one_thread_unless_they_are_kept(tmp_path: Path) -> None:
    path = exported(Ridge().fit(X, AMOUNT), tmp_path / "model.onnx")

    options = load(path, name="x").object.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)

    kept = load(Artefact(path, keep_threads=True), name="x").object.session.get_session_options()
    assert kept.intra_op_num_threads == 0  # as many as ONNX Runtime sees fit


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07\x12"])
def test_a_broken_file_is_a_model_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a complete ONNX model"):
        load(path, name="x")
