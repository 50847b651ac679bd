"""A file whose types are all trusted, and whose structures would crash or hang at the first prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.neighbors import KDTree, KNeighborsRegressor
from sklearn.tree import DecisionTreeRegressor
from sklearn.tree._tree import Tree

from eventml.errors import ModelError
from eventml.models import load
from eventml.models.soundness import _branching, faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FAR = 10_000_000
random = np.random.default_rng(0)
X = np.column_stack([np.arange(60) % 5, random.random((60, 3))])
AMOUNT = X.sum(axis=1)


def grown() -> DecisionTreeRegressor:
    return DecisionTreeRegressor(max_depth=3, random_state=0).fit(X, AMOUNT)


def with_nodes(change: Callable[[Any], object], **state: Any) -> Tree:
    """A tree of scikit-learn's whose nodes were tampered with."""
    tree = grown().tree_
    kind, arguments, before = tree.__reduce__()
    nodes = before["nodes"].copy()
    change(nodes)
    forged = kind(*arguments)
    forged.__setstate__({**before, "nodes": nodes, **state})
    return forged


def put(field: str, place: int, value: int) -> Callable[[Any], None]:
    def change(nodes: Any) -> None:
        nodes[field][place] = value

    return change


def masked(value: Any) -> Any:
    return np.ma.MaskedArray(value, mask=np.ones(np.shape(value), dtype=bool))


def test_masked_numbers_do_not_pass_the_checks(save: Callable[..., Path]) -> None:
    """A comparison with them is neither true nor false."""
    tree = grown()
    tree.n_features_in_ = masked(np.array(1))
    boosted = HistGradientBoostingRegressor(max_iter=1, max_leaf_nodes=4).fit(X, AMOUNT)
    boosted._predictors[0][0].nodes = masked(boosted._predictors[0][0].nodes)
    for model in (tree, boosted):
        with pytest.raises(ModelError, match=r"malicious: .*(array with a mask|tree is not made of arrays)"):
            load(save(model), name="x")


@pytest.mark.parametrize("columns", [4.0, np.array(4), "4", None, [4]])
def test_a_number_of_columns_is_an_integer(columns: Any) -> None:
    tree = grown()
    tree.n_features_in_ = columns
    assert "another number of columns" in next(faults(tree))
    tree.n_features_in_ = np.int64(4)
    assert next(faults(tree), None) is None


def without_outputs() -> Tree:
    _, _, state = grown().tree_.__reduce__()
    forged = Tree(4, np.array([0], dtype=np.intp), 1)
    forged.__setstate__({**state, "values": np.zeros((len(state["nodes"]), 1, 0))})
    return forged


TREES: dict[str, Callable[[], Tree]] = {
    "a child beyond the last node": lambda: with_nodes(put("left_child", 0, FAR)),
    "a child before the first node": lambda: with_nodes(put("right_child", 0, -FAR)),
    "a circle": lambda: with_nodes(put("left_child", 1, 0)),
    "a child of itself": lambda: with_nodes(put("left_child", 1, 1)),
    "one child twice": lambda: with_nodes(put("left_child", 0, 2)),
    "a column beyond the last": lambda: with_nodes(put("feature", 0, FAR)),
    "a column before the first": lambda: with_nodes(put("feature", 0, -5)),
    "more levels than it says": lambda: with_nodes(lambda _: None, max_depth=1),
    "no outputs": without_outputs,
    "no nodes": lambda: Tree(4, np.array([1], dtype=np.intp), 1),
}


@pytest.mark.parametrize("case", TREES)
@pytest.mark.parametrize("ensemble", [False, True])
def test_a_tree_that_scikit_learn_would_not_grow_is_refused(
    case: str, ensemble: bool, save: Callable[..., Path]
) -> None:
    model: Any = grown()
    inner = model
    if ensemble:
        model = RandomForestRegressor(3, max_depth=2).fit(X, AMOUNT)
        inner = model.estimators_[2]
    inner.tree_ = TREES[case]()

    with pytest.raises(ModelError, match="damaged or malicious: Tree: "):
        load(save(model), name="x")


@pytest.mark.parametrize("count", [-5, 0])
def test_another_number_of_nodes_than_there_are_is_refused(count: int, forge: Callable[..., Path]) -> None:
    def change(schema: dict[str, Any]) -> None:
        state = schema["content"]["content"]["tree_"]["content"]["content"]
        state["node_count"]["content"] = str(count)

    with pytest.raises(ModelError, match=f"claims {count} nodes"):
        load(forge(grown(), change), name="x")


def other_columns(model: Any) -> None:
    model.n_features_in_ = 1


def no_columns(model: Any) -> None:
    del model.n_features_in_


def hidden_method(model: Any) -> None:
    model._validate_X_predict = np.log1p


def not_a_tree(model: Any) -> None:
    model.tree_ = KDTree(X)


@pytest.mark.parametrize("change", [other_columns, no_columns, hidden_method, not_a_tree])
def test_an_estimator_that_would_hand_its_tree_other_columns_is_refused(
    change: Callable[[Any], None], save: Callable[..., Path]
) -> None:
    model = grown()
    change(model)

    with pytest.raises(ModelError, match="malicious: DecisionTreeRegressor: "):
        load(save(model), name="x")


def more_outputs(model: Any) -> None:
    model.estimators_ = np.column_stack([model.estimators_] * 4)


def no_stages(model: Any) -> None:
    model.estimators_ = model.estimators_[:0]


def wider_tree(model: Any) -> None:
    model.estimators_[1, 0] = DecisionTreeRegressor().fit(np.column_stack([X, X]), AMOUNT)


def foreign_tree(model: Any) -> None:
    model.estimators_[1, 0] = KNeighborsRegressor().fit(X, AMOUNT)


@pytest.mark.parametrize("change", [more_outputs, no_stages, wider_tree, foreign_tree])
@pytest.mark.parametrize("kind", [GradientBoostingClassifier, GradientBoostingRegressor])
def test_boosting_whose_trees_do_not_belong_together_is_refused(
    kind: Any, change: Callable[[Any], None], save: Callable[..., Path]
) -> None:
    model = kind(n_estimators=3).fit(X, AMOUNT > 2 if kind is GradientBoostingClassifier else AMOUNT)
    change(model)

    with pytest.raises(ModelError, match="malicious: GradientBoosting"):
        load(save(model), name="x")


def in_first_tree(field: str, value: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model._predictors[0][0].nodes[field][0] = value

    return change


def no_nodes(model: Any) -> None:
    model._predictors[0][0].nodes = model._predictors[0][0].nodes[:0]


def categories_of_a_number(model: Any) -> None:
    nodes = model._predictors[0][0].nodes
    at = int(np.flatnonzero((nodes["is_leaf"] == 0) & (nodes["feature_idx"] != 0))[0])
    nodes["is_categorical"][at], nodes["bitset_idx"][at] = 1, 0


def categories_beyond(model: Any) -> None:
    for (predictor,) in model._predictors:
        predictor.nodes["bitset_idx"] = np.where(predictor.nodes["is_categorical"] != 0, FAR, 0)


def narrow_categories(model: Any) -> None:
    predictor = model._predictors[0][0]
    predictor.raw_left_cat_bitsets = np.ascontiguousarray(predictor.raw_left_cat_bitsets[:, :1])


def fewer_bins(model: Any) -> None:
    model._bin_mapper.is_categorical_ = model._bin_mapper.is_categorical_[:1]


@pytest.mark.parametrize(
    "change",
    [
        in_first_tree("left", FAR),
        in_first_tree("right", 0),
        in_first_tree("feature_idx", FAR),
        in_first_tree("feature_idx", -1),
        no_nodes,
        categories_of_a_number,
        categories_beyond,
        narrow_categories,
        fewer_bins,
        other_columns,
    ],
)
def test_histogram_boosting_with_indices_to_nowhere_is_refused(
    change: Callable[[Any], None], save: Callable[..., Path]
) -> None:
    model = HistGradientBoostingRegressor(categorical_features=[0], max_iter=3, min_samples_leaf=5)
    model.fit(X, AMOUNT)
    assert not list(faults(model))
    change(model)

    with pytest.raises(ModelError, match="malicious: HistGradientBoostingRegressor: "):
        load(save(model), name="x")


@example([(True, 0, 0), (False, 1, 2), (True, 0, 0)])  # a circle beside the root
@given(st.lists(st.tuples(st.booleans(), st.integers(-2, 8), st.integers(-2, 8)), min_size=1, max_size=8))
def test_what_passes_as_a_tree_is_one(nodes: list[tuple[bool, int, int]]) -> None:
    """Every way down from the root ends, at a node that is there, and all nodes are on one."""
    parents = np.array([i for i, (leaf, _, _) in enumerate(nodes) if not leaf], dtype=int)
    left = np.array([nodes[i][1] for i in parents], dtype=int)
    right = np.array([nodes[i][2] for i in parents], dtype=int)
    if _branching(parents, left, right, len(nodes)):
        return

    met: list[int] = []
    waiting = [0]
    while waiting and len(met) <= len(nodes):
        here = waiting.pop()
        met.append(here)
        leaf, one, other = nodes[here]
        if not leaf:
            waiting += [one, other]
    assert sorted(met) == list(range(len(nodes)))


@given(st.integers(1, 40).flatmap(lambda n: st.permutations(range(n))))
def test_every_tree_whose_parents_come_first_passes(order: list[int]) -> None:
    """Grown by splitting leaves in any order, as depth first and best first both do."""
    left: dict[int, int] = {}
    leaves, count = [0], 1
    for pick in order:
        parent = leaves.pop(pick % len(leaves))
        left[parent] = count
        leaves += [count, count + 1]
        count += 2
    parents = np.array(sorted(left))
    first = np.array([left[parent] for parent in parents])
    assert _branching(parents, first, first + 1, count) == ""
