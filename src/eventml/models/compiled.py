"""scikit-learn models compiled with ONNX: converted by skl2onnx, run by ONNX Runtime, and compared.

Of a pipeline the last step is compiled, and the steps before it stay as they are. The comparison decides
whether a model can be compiled, not a list of estimators.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from threading import Lock
from typing import Any, Final
from unittest import mock

import numpy as np
from msgspec import structs
from sklearn.pipeline import Pipeline

from eventml.errors import ModelError
from eventml.models.formats import ModelFile, import_extra
from eventml.models.object_graph import reachable
from eventml.models.onnx_models import read_onnx

_MOST_COLUMNS: Final = 4096  # a compiled model takes dense rows
_ROWS: Final = 512  # to compare on
_SHOWN: Final = 200  # characters of a row in a message
_converting = Lock()


class CompiledModel:
    """A compiled model, with those of the methods and attributes below that the original has.

    `predict`, `predict_proba`, `classes_`, `n_features_in_`, `feature_names_in_`. NaN and infinity are a
    ValueError, unless the original takes them and the compiled model predicts the same for them.

    Attributes:
        difference: The largest difference from the original on generated rows; see `differences`.
    """

    def __init__(self, original: Any, session: Any, dtype: str, answer: Any) -> None:
        self._session, self._dtype, self._columns = session, dtype, original.n_features_in_
        self._input = session.get_inputs()[0].name
        self._outputs = [one.name for one in session.get_outputs()]
        self._shape, self._type = answer.shape[1:], answer.dtype
        self.first_steps: Any = None  # of a pipeline
        self.takes = {"NaN": True, "infinity": True}
        self.difference = 0.0
        if hasattr(original, "predict_proba"):
            self.predict_proba = partial(self._run, 1)

    def predict(self, X: Any) -> Any:  # noqa: N803 - the name in scikit-learn
        """The predictions for a batch, in the shape and type of the original's."""
        predicted = self._run(0, X).astype(self._type)
        return predicted.reshape(len(predicted), *self._shape)

    def _run(self, output: int, X: Any) -> Any:  # noqa: N803 - the same
        answer = np.asarray(self._session.run([self._outputs[output]], {self._input: self._rows(X)})[0])
        return answer.astype(np.float64) if answer.dtype.kind == "f" else answer

    def _rows(self, X: Any) -> Any:  # noqa: N803 - the same
        names = vars(self).get("feature_names_in_")
        if self.first_steps is not None:
            X = self.first_steps.transform(X)  # noqa: N806 - the same
        elif names is not None and hasattr(X, "columns") and list(X.columns) != list(names):
            raise ValueError(f"X has the columns {list(X.columns)}; the model was fitted with {list(names)}")
        rows = np.asarray(X.toarray() if hasattr(X, "toarray") else X, np.float64)
        if rows.ndim != 2 or rows.shape[1] != self._columns:  # noqa: PLR2004 - rows and columns
            raise ValueError(f"X has the shape {rows.shape}; the model expects {self._columns} features")
        with np.errstate(over="ignore"):
            rows = rows.astype(self._dtype)
        if not np.isfinite(rows).all():
            for name, test in (("NaN", np.isnan), ("infinity", np.isinf)):
                if not self.takes[name] and test(rows).any():
                    raise ValueError(f"X contains {name} as {self._dtype}, which this model does not take")
        return rows

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a compiled model has no {name!r}; it has predict, predict_proba and classes_ of a classifier, "
            "n_features_in_ and feature_names_in_. Omit compile for others"
        )


class Compared:
    """A compiled model that raises a ModelError where its original predicts otherwise; for golden rows."""

    def __init__(self, compiled: CompiledModel, original: Any, tolerance: float) -> None:
        self._compiled, self._original, self._tolerance = compiled, original, tolerance

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._compiled, name)
        return partial(self._call, found) if name in ("predict", "predict_proba") else found

    def _call(self, method: Any, X: Any) -> Any:  # noqa: N803 - the name in scikit-learn
        _refuse_if_different(self._original, self._compiled, X, self._tolerance, "of the call")
        return method(X)


def compiled(original: Any, file: ModelFile, tolerance: float) -> CompiledModel:
    """Compile the model that was loaded from `file`, and compare it with the original on generated rows.

    The rows lie around the thresholds of the model's trees; columns without one have normal numbers.

    Raises:
        MissingExtraError: skl2onnx or onnxruntime is not installed.
        ModelError: It is no model of scikit-learn, cannot be converted, or predicts otherwise.
    """
    to_onnx = import_extra("skl2onnx", "compile", f"compiling {file.path}").to_onnx
    last = copy(original.steps[-1][1] if isinstance(original, Pipeline) else original)
    columns = getattr(last, "n_features_in_", 0)
    if not hasattr(last, "predict") or not 0 < columns <= _MOST_COLUMNS:
        raise ModelError(
            f"{file.path}: compile takes fitted predictors of scikit-learn with up to {_MOST_COLUMNS} "
            f"columns, not {type(last).__name__} with {columns}; omit compile"
        )
    vars(last).pop("feature_names_in_", None)  # the rows are arrays here, of which scikit-learn would warn
    trees = [one for one in reachable(last) if type(one).__name__ in ("Tree", "TreePredictor")]
    rows = _generated(trees, columns)
    dtype = "float32" if trees else "float64"  # ONNX Runtime has trees of float32 only
    try:
        data = _converted(to_onnx, last, rows[:1].astype(dtype))
        session = read_onnx(structs.replace(file, data=data)).session
        found = CompiledModel(last, session, dtype, np.asarray(last.predict(rows)))
        differences(last, found, rows[:1])
    except Exception as exc:  # skl2onnx raises anything for what it cannot convert
        reason = f"{type(exc).__name__}: {str(exc).partition(chr(10))[0][:_SHOWN]}"
        raise ModelError(f"{file.path} cannot be compiled: {reason}; omit compile") from exc
    found.difference = _refuse_if_different(last, found, rows, tolerance, f"generated for {file.path}")
    at = np.arange(_ROWS)
    for name, value in (("NaN", np.nan), ("infinity", np.inf)):
        rows[at, at % columns] = value
        try:
            found.takes[name] = bool(differences(last, found, rows)[0].max() <= tolerance)
        except ValueError:  # the original refuses it
            found.takes[name] = False
    if isinstance(original, Pipeline) and len(original.steps) > 1:
        found.first_steps = original[:-1]
    for name in ("classes_", "n_features_in_", "feature_names_in_"):
        if hasattr(original, name):
            setattr(found, name, getattr(original, name))
    return found


def _converted(to_onnx: Any, model: Any, row: Any) -> bytes:
    """The model in ONNX's format; with missing values in forests, which skl2onnx 1.20 leaves out."""
    from skl2onnx.common import tree_ensemble  # noqa: PLC0415 - optional

    add_node = tree_ensemble.add_node

    def add_node_with_ints(*args: Any, nodes_missing_value_tracks_true: Any = 0, **kwargs: Any) -> None:
        # skl2onnx gives booleans for histogram boosting, and protobuf 7 takes ints only.
        add_node(*args, nodes_missing_value_tracks_true=int(nodes_missing_value_tracks_true), **kwargs)

    options = {"zipmap": False} if hasattr(model, "predict_proba") else None
    with _converting, mock.patch.object(tree_ensemble, "add_node", add_node_with_ints):
        onnx = to_onnx(model, row, options=options)
    estimators = getattr(model, "estimators_", [model])
    estimators = estimators.ravel() if isinstance(estimators, np.ndarray) else estimators
    sides = [one.tree_.missing_go_to_left for one in estimators if hasattr(one, "tree_")]
    flags = np.concatenate(sides).astype(int).tolist() if sides else []
    for attribute in (one for node in onnx.graph.node for one in node.attribute):
        if attribute.name == "nodes_missing_value_tracks_true" and len(attribute.ints) == len(flags):
            attribute.ints[:] = flags
    return bytes(onnx.SerializeToString())


def _generated(trees: Sequence[Any], columns: int) -> Any:
    """Rows around the thresholds of trees, the same at each call."""
    random = np.random.default_rng(0)
    rows = random.normal(0.0, 10.0 ** random.integers(-1, 3, (_ROWS, 1)), (_ROWS, columns))
    splits = [(one.feature, one.threshold) for one in trees if getattr(one, "n_features", 0) == columns]
    nodes = [one.nodes[one.nodes["is_leaf"] == 0] for one in trees if hasattr(one, "nodes")]
    splits += [(one["feature_idx"], one["num_threshold"]) for one in nodes]
    for column in range(columns if splits else 0):
        values = np.concatenate([values[features == column] for features, values in splits])
        values = np.unique(values[np.isfinite(values)])  # histogram boosting has infinite ones
        if len(values):
            near = (values, values * (1 + 1e-6), values * (1 - 1e-6), np.floor(values), np.ceil(values))
            between = random.uniform(values.min() - 1.0, values.max() + 1.0, _ROWS)
            at_random = random.choice(np.concatenate(near), _ROWS)
            rows[:, column] = np.where(random.integers(0, 2, _ROWS), at_random, between)
    return rows


def differences(original: Any, found: Any, rows: Any) -> tuple[Any, Any, Any]:
    """How far the predictions for each row are apart; and both predictions.

    That of numbers is relative to the original's or, if that is smaller, to the median of their sizes.
    Probabilities are compared as they are. A class that differs counts as the difference of the original's
    probabilities of the two classes, or as infinite if there are none.
    """
    expected, predicted = np.asarray(original.predict(rows)), np.asarray(found.predict(rows))
    if expected.dtype.kind == "f" and not hasattr(original, "classes_"):
        sizes = np.abs(expected)
        scale = np.maximum(sizes, np.median(sizes))
        with np.errstate(invalid="ignore", divide="ignore"):
            apart = np.where(expected == predicted, 0.0, np.abs(expected - predicted) / scale)
        apart = np.nan_to_num(apart, nan=np.inf).reshape(len(expected), -1).max(axis=1)
        return apart, expected, predicted
    apart = np.where(expected == predicted, 0.0, np.inf)
    if hasattr(original, "predict_proba"):
        chances = np.asarray(original.predict_proba(rows))
        order, at = np.argsort(original.classes_), np.arange(len(expected))
        one, other = (
            chances[at, order[np.searchsorted(original.classes_, labels, sorter=order)]]
            for labels in (expected, predicted)
        )
        apart = np.maximum(np.abs(one - other), np.abs(chances - found.predict_proba(rows)).max(axis=1))
    return apart, expected, predicted


def _refuse_if_different(original: Any, found: Any, rows: Any, tolerance: float, which: str) -> float:
    """Return the largest difference, or raise a ModelError with it and its row."""
    apart, expected, predicted = differences(original, found, rows)
    worst = int(apart.argmax())
    if apart[worst] > tolerance:
        raise ModelError(
            f"compiled, the model predicts {predicted[worst]} instead of {expected[worst]} for row "
            f"{worst + 1} of {len(apart)} {which}: a difference of {apart[worst]:.2g}, and "
            f"compile_tolerance is {tolerance:g}. Omit compile. "
            f"The row: {str(np.asarray(rows)[worst].tolist())[:_SHOWN]}"
        )
    return float(apart[worst])
