"""Neighbour trees, sparse matrices and splines whose numbers would lead a prediction to nowhere."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]  # scipy has no types
from sklearn.neighbors import BallTree, KDTree, KNeighborsRegressor
from sklearn.preprocessing import SplineTransformer

from eventml.errors import ModelError
from eventml.models import load
from eventml.models.soundness import faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FAR = 10_000_000
X = np.random.default_rng(0).random((60, 4))
AMOUNT = X.sum(axis=1)


def neighbours(place: int, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def forged(tree: Any) -> Any:
        state = list(tree.__getstate__())
        state[place] = change(copy.deepcopy(state[place]))
        kind: Any = type(tree)
        other = kind.__new__(kind)
        other.__setstate__(tuple(state))
        return other

    return forged


def at(field: str | None, value: int) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        (array if field is None else array[field])[-1] = value
        return array

    return change


def empty(tree: Any) -> Any:
    kind: Any = type(tree)
    return kind.__new__(kind)


@pytest.mark.parametrize("kind", [BallTree, KDTree])
@pytest.mark.parametrize(
    "change",
    [
        neighbours(1, at(None, FAR)),
        neighbours(1, at(None, -1)),
        neighbours(1, lambda order: order[:3]),
        neighbours(2, at("idx_end", FAR)),
        neighbours(2, at("idx_start", -1)),
        neighbours(2, lambda nodes: at("idx_start", 59)(at("idx_end", 70)(nodes))),
        neighbours(2, at("is_leaf", 0)),
        neighbours(2, lambda nodes: nodes[:1]),
        neighbours(3, lambda bounds: bounds[:, :1].copy()),
        neighbours(6, lambda count: count + 1),
        neighbours(12, lambda _: np.ones(2)),
        empty,
    ],
)
def test_neighbour_trees_with_indices_to_nowhere_are_refused(
    kind: Any, change: Callable[[Any], Any], save: Callable[..., Path]
) -> None:
    algorithm = "ball_tree" if kind is BallTree else "kd_tree"
    model = KNeighborsRegressor(algorithm=algorithm, leaf_size=5).fit(X, AMOUNT)
    assert not list(faults(model))
    model._tree = change(model._tree)

    with pytest.raises(ModelError):
        load(save(model), name="x")


def narrow(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    p, vector, matrix = state
    return p, vector[:1].copy(), matrix[:1, :1].copy()


def uneven(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    p, vector, matrix = state
    return p, vector, matrix[:, :1].copy()


@pytest.mark.parametrize(
    ("metric", "parameters", "change"),
    [
        ("mahalanobis", {"VI": np.eye(4)}, narrow),
        ("mahalanobis", {"VI": np.eye(4)}, uneven),
        ("seuclidean", {"V": np.ones(4)}, narrow),
    ],
)
def test_a_distance_of_other_columns_is_refused(
    metric: str, parameters: dict[str, Any], change: Callable[[Any], Any], save: Callable[..., Path]
) -> None:
    model = KNeighborsRegressor(algorithm="ball_tree", metric=metric, metric_params=parameters)
    distance = model.fit(X, AMOUNT)._tree.__getstate__()[11]
    distance.__setstate__(change(distance.__getstate__()))

    with pytest.raises(ModelError, match=r"for other columns|does not match"):
        load(save(model), name="x")


def test_a_sparse_matrix_with_indices_to_nowhere_is_refused(save: Callable[..., Path], line: Any) -> None:
    line.coef_ = csr_matrix(np.eye(3))
    line.coef_.indices[0] = FAR

    with pytest.raises(ModelError, match="cannot be loaded"):
        load(save(line), name="x")


def test_a_spline_without_its_coefficients_is_refused(save: Callable[..., Path]) -> None:
    model = SplineTransformer().fit(X)
    model.bsplines_[0]._c = model.bsplines_[0]._c[:1]

    with pytest.raises(ModelError, match="inconsistent"):
        load(save(model), name="x")
