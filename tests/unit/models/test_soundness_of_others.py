"""Neighbour trees, sparse matrices and splines whose numbers would lead a prediction to nowhere."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix  # type: ignore[import-untyped]  # scipy has no types
from sklearn.neighbors import BallTree, KDTree, KNeighborsRegressor
from sklearn.preprocessing import SplineTransformer

from eventml.errors import ModelError, UntrustedModelError
from eventml.models import Artefact, load
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


@pytest.mark.parametrize("claimed", ["csr_matrix", "csc_matrix"])
def test_a_sparse_matrix_in_another_format_than_csr_is_refused_unless_trusted(
    claimed: str, forge: Callable[..., Path], line: Any
) -> None:
    """Its rows take no room in the file, and memory once scikit-learn converts it."""
    module = f"scipy.sparse._{claimed[:3]}"

    def change(schema: Any) -> None:
        schema["content"]["content"]["coef_"].update(__class__=claimed, __module__=module)

    line.coef_ = csc_matrix((1000, 1))
    path = forge(line, change)
    with pytest.raises((ModelError, UntrustedModelError), match=r"no CSR matrix|csc_matrix"):
        load(path, name="x")

    trusted = Artefact(path, trusted=(f"{module}.{claimed}", "scipy.sparse._csc.csc_matrix"))
    assert load(trusted, name="x").object.coef_.shape == (1000, 1)


def test_a_sparse_matrix_has_not_more_columns_than_memory(save: Callable[..., Path], line: Any) -> None:
    line.coef_ = csr_matrix((1, 2**24))
    assert load(save(line), name="x").object.coef_.shape == (1, 2**24)
    line.coef_ = csr_matrix((1, 2**24 + 1))
    with pytest.raises(ModelError, match="no CSR matrix of at most"):
        load(save(line), name="x")


def sources() -> list[tuple[Any, str]]:
    kinds = [(np.random.RandomState(0), "pos"), (np.random.Generator(np.random.MT19937(0)), "pos")]
    return [*kinds, (np.random.Generator(np.random.Philox(0)), "buffer_pos")]


@pytest.mark.parametrize("position", [-1, 625])
@pytest.mark.parametrize(("source", "field"), sources())
def test_a_random_generator_whose_next_number_is_nowhere_is_refused(
    source: Any, field: str, position: int, forge: Callable[..., Path], line: Any
) -> None:
    def change(schema: Any) -> None:
        state = schema["content"]["content"]["random"]["content"]
        state = state.get("bit_generator", state)["content"]
        state = state if field in state else state.get("content", state)
        number = (state if field in state else state["state"]["content"])[field]
        number["content"] = str(position)
        number.pop("__id__", None)  # equal numbers share it

    line.random = source
    source.standard_normal()  # so that it is in the middle of its numbers
    assert (
        load(forge(line, lambda _: None), name="x").object.random.random() == copy.deepcopy(source).random()
    )
    with pytest.raises(ModelError, match="next number is outside"):
        load(forge(line, change), name="x")
