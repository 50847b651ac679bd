"""Whether a loaded model's structures hold together.

scikit-learn's compiled code follows a tree's indices without looking: a file with a child beyond the
last node, or a feature beyond the last column, reads or writes foreign memory at the first
prediction, or never ends. skops refuses trees altogether for that reason. These checks take trees
that scikit-learn could have grown and no others; the same is done for the other structures of
indices: neighbour trees, sparse matrices and splines.

Not a proof that compiled code survives any file: an estimator's other numbers (a support vector
machine's, a boosting model's initial estimator's) are taken as they are. A file from outside should
be pinned by its sha256.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.interpolate import BSpline  # type: ignore[import-untyped]  # scipy has no types
from scipy.sparse import sparray, spmatrix  # type: ignore[import-untyped]  # the same
from sklearn.base import BaseEstimator
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.neighbors import BallTree, KDTree
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import Tree

from eventml.models.graph import attributes, reachable

if TYPE_CHECKING:
    from collections.abc import Iterator


def faults(model: Any) -> Iterator[str]:
    """What is wrong with a model's structures, each fault in words.

    Raises:
        Exception: Of any kind: a structure is not even of the kind that the check expects.
    """
    for one in reachable(model):
        for kind, check in _CHECKS:
            if isinstance(one, kind):
                for fault in check(one):
                    yield f"{type(one).__name__}: {fault}"


def _estimator(estimator: Any) -> Iterator[str]:
    """No attribute stands in for a method: the other checks rely on what the methods verify."""
    kind: Any = type(estimator)
    hidden = _methods(kind).intersection(attributes(estimator))
    if hidden:
        yield f"an attribute hides the method {', '.join(sorted(hidden))}"


@cache  # the few classes there are, for ever
def _methods(kind: type[object]) -> frozenset[str]:
    # A property cannot be hidden by an attribute, and old files have attributes that became properties.
    return frozenset(
        name
        for base in kind.__mro__
        for name, value in vars(base).items()
        if hasattr(type(value), "__get__") and not hasattr(type(value), "__set__")
    )


def _tree(tree: Any) -> Iterator[str]:
    # Nothing may be read of the nodes before it is known how many there are.
    if not 1 <= tree.node_count <= tree.capacity:
        yield f"{tree.node_count} nodes are claimed, {tree.capacity} are there"
        return
    if tree.n_outputs < 1 or tree.max_n_classes < 1:
        yield "it has no outputs"
    parents = np.flatnonzero(tree.children_left != -1)
    fault = _branching(parents, tree.children_left[parents], tree.children_right[parents], tree.node_count)
    if fault:
        yield fault
        return
    if not _within(tree.feature[parents], tree.n_features):
        yield f"a split is on a column beyond the {tree.n_features} there are"
    if tree.compute_node_depths().max() - 1 > tree.max_depth:
        yield f"it is deeper than the {tree.max_depth} levels it claims"


def _branching(parents: Any, left: Any, right: Any, count: int) -> str:
    """A tree's every node but the root is the child of exactly one node before it."""
    children = np.concatenate([left, right]).astype(np.int64)
    if not np.array_equal(np.sort(children), np.arange(1, count)):
        return f"its {count} nodes are not one tree"
    if (children <= np.concatenate([parents, parents])).any():
        return "a child stands before its parent"
    return ""


def _within(indices: Any, size: int) -> bool:
    return bool(((indices >= 0) & (indices < size)).all())


def _decision_tree(estimator: Any) -> Iterator[str]:
    own = attributes(estimator)
    if "tree_" not in own:
        return
    if not isinstance(own["tree_"], Tree):
        yield "its tree is none"
    elif own.get("n_features_in_") != own["tree_"].n_features:
        yield "it takes another number of columns than its tree"


def _boosting(estimator: Any) -> Iterator[str]:
    """Its predictions are added up by compiled code, over all trees at once, checking only the first."""
    own = attributes(estimator)
    if "estimators_" not in own:
        return
    stages = own["estimators_"]
    outputs = own.get("n_trees_per_iteration_", stages.shape[-1])
    if stages.size == 0 or stages.shape != (len(stages), outputs):
        yield "its trees are not laid out by stage and output"
    trees = [attributes(one).get("tree_") for one in stages.ravel() if isinstance(one, BaseDecisionTree)]
    columns = {tree.n_features for tree in trees if tree is not None}
    if len(trees) != stages.size or len(columns) != 1:
        yield "its trees do not take the same columns"


def _histogram_boosting(estimator: Any) -> Iterator[str]:
    own = attributes(estimator)
    if "_predictors" not in own:
        return
    categorical = np.asarray(own["_bin_mapper"].is_categorical_, dtype=bool)
    if categorical.shape != (own["n_features_in_"],):
        yield "its bins are for other columns than it takes"
        return
    for predictor in (one for stage in own["_predictors"] for one in stage):
        yield from _histogram_tree(predictor, categorical)


def _histogram_tree(predictor: Any, categorical: Any) -> Iterator[str]:
    nodes, bitsets = predictor.nodes, predictor.raw_left_cat_bitsets
    parents = np.flatnonzero(nodes["is_leaf"] == 0)
    inner = nodes[parents]
    fault = _branching(parents, inner["left"], inner["right"], len(nodes))
    if fault or len(nodes) == 0:
        yield fault or "a tree has no nodes"
        return
    if not _within(inner["feature_idx"], categorical.size):
        yield f"a split is on a column beyond the {categorical.size} there are"
        return
    sets = inner[inner["is_categorical"] != 0]
    if not categorical[sets["feature_idx"]].all() or not _within(sets["bitset_idx"], len(bitsets)):
        yield "a split is on categories that are not there"
    if bitsets.ndim != 2 or bitsets.shape[1] != 8:  # noqa: PLR2004 - 256 categories are 8 words of 32 bits
        yield "its categories are not sets of 256"


def _neighbours(tree: Any) -> Iterator[str]:
    data, order, nodes, bounds, _, _, count, *_, metric, weights = tree.__getstate__()
    size, columns = data.shape
    if order.shape != (size,) or not _within(order, size):
        yield "it points at rows that are not there"
    sides = 2 if isinstance(tree, KDTree) else 1
    if nodes.shape != (count,) or count < 1 or bounds.shape != (sides, count, columns):
        yield f"{count} nodes are claimed, {nodes.size} are there"
    if not (
        _within(nodes["idx_start"], size + 1) and _within(nodes["idx_end"] - nodes["idx_start"], size + 1)
    ):
        yield "a node begins or ends outside the rows"
    if not _within(nodes["idx_end"], size + 1):
        yield "a node ends after the last row"
    # The children of node i are 2i + 1 and 2i + 2.
    if (2 * np.flatnonzero(nodes["is_leaf"] == 0) + 2 >= count).any():
        yield "a node has children that are not there"
    if weights is not None and weights.shape != (size,):
        yield "its weights are not one a row"
    metric._validate_data(data)  # noqa: SLF001 - the check that scikit-learn makes before it builds one
    if type(metric).__name__.startswith("Mahalanobis") and metric.__getstate__()[2].shape != (
        columns,
        columns,
    ):
        yield "its distance is for other columns"


def _sparse(matrix: Any) -> Iterator[str]:
    if matrix.format in ("csr", "csc", "bsr"):
        matrix.check_format(full_check=True)
    yield from ()


def _spline(spline: Any) -> Iterator[str]:
    # The constructor, which loading passed by, makes the checks.
    own = attributes(spline)
    BSpline(own["_t"], own["_c"], own["k"], own["extrapolate"]) if "_t" in own else BSpline(*spline.tck)
    yield from ()


_CHECKS = (
    (BaseEstimator, _estimator),
    (Tree, _tree),
    (BaseDecisionTree, _decision_tree),
    ((GradientBoostingClassifier, GradientBoostingRegressor), _boosting),
    ((HistGradientBoostingClassifier, HistGradientBoostingRegressor), _histogram_boosting),
    ((BallTree, KDTree), _neighbours),
    ((sparray, spmatrix), _sparse),
    (BSpline, _spline),
)
