"""Structural checks of a loaded model, before its first prediction.

scikit-learn's compiled code follows a tree's indices without bounds checks: a file with a child beyond
the last node, or a feature beyond the last column, makes it read or write memory out of bounds at the
first prediction, or loop forever. skops refuses trees altogether for that reason. These checks accept only
trees that scikit-learn could have grown, and check the other structures of indices in the same way:
neighbour trees, sparse matrices, random generators and splines.

They do not prove that compiled code is safe with any file: other numbers of an estimator (of a support
vector machine, of a boosting model's initial estimator) are not checked. Pin a file from outside by its
sha256.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
from scipy.interpolate import BSpline  # type: ignore[import-untyped]  # scipy has no types
from scipy.sparse import csr_array, csr_matrix, sparray, spmatrix  # type: ignore[import-untyped]  # the same
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.model_selection._search import BaseSearchCV
from sklearn.neighbors import BallTree, KDTree
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import Tree

from eventml.models.estimator_checks import PLAIN, misuses, named_objects
from eventml.models.object_graph import attributes, parts, reachable


def faults(model: Any, trusted: Iterable[str] = ()) -> Iterator[str]:
    """The faults in a model's structures, each in words.

    Args:
        model: The object that was loaded.
        trusted: Full names of types and functions that may be anywhere in it.

    Raises:
        Exception: Any exception, if a structure has not even the type that a check expects.
    """
    # What is not imported is not in the model.
    accepted = named_objects(name for name in trusted if name.partition(".")[0] in sys.modules)
    objects = [one for one in reachable(model) if not issubclass(type(one), np.number)]
    # A comparison with a masked number is neither true nor false, so it passes every check.
    searches = [one for one in objects if issubclass(type(one), BaseSearchCV)]
    results = {id(attributes(one).get("cv_results_")) for one in searches}
    for one in objects:
        plain = id(one) not in results and type(one) not in accepted
        if plain and any(issubclass(type(part), np.ma.MaskedArray) for part in parts(one)):
            yield f"{type(one).__name__}: it holds an array with a mask"
        # Rows of CSR take room in the file; those of other types, whatever the file claims, in memory only.
        sparse = issubclass(type(one), sparray | spmatrix) and type(one) not in accepted
        if sparse and (type(one) not in (csr_array, csr_matrix) or one.shape[-1] > 1 << 24):
            yield f"{type(one).__name__}: it is no CSR matrix of at most 2**24 columns"
        for fault in misuses(one, accepted):
            yield f"{type(one).__name__}: {fault}"
        if type(one) in PLAIN:
            continue
        for kind, check in _CHECKS:
            if isinstance(one, kind):
                for fault in check(one):
                    yield f"{type(one).__name__}: {fault}"


def _hidden_methods(one: Any) -> Iterator[str]:
    """Methods hidden by attributes: the other checks rely on what the methods verify."""
    kind: Any = type(one)
    hidden = _methods(kind).intersection(attributes(one)) if kind.__module__.startswith("sklearn.") else None
    if hidden:
        yield f"an attribute hides the method {', '.join(sorted(hidden))}"


@cache  # there are few classes
def _methods(kind: type[object]) -> frozenset[str]:
    # An attribute cannot hide a property, and old files have attributes that are properties now.
    return frozenset(
        name
        for base in kind.__mro__
        for name, value in vars(base).items()
        if hasattr(type(value), "__get__") and not hasattr(type(value), "__set__")
    )


def _tree(tree: Any) -> Iterator[str]:
    # The number of nodes must be checked before any node is read.
    if not 1 <= tree.node_count <= tree.capacity:
        yield f"it claims {tree.node_count} nodes and has {tree.capacity}"
        return
    if tree.n_outputs < 1 or tree.max_n_classes < 1:
        yield "it has no outputs"
    parents = np.flatnonzero(tree.children_left != -1)
    fault = _branching(parents, tree.children_left[parents], tree.children_right[parents], tree.node_count)
    if fault:
        yield fault
        return
    if not _within(tree.feature[parents], tree.n_features):
        yield f"a split uses a column beyond its {tree.n_features} columns"
    if tree.compute_node_depths().max() - 1 > tree.max_depth:
        yield f"it is deeper than the {tree.max_depth} levels it claims"


def _branching(parents: Any, left: Any, right: Any, count: int) -> str:
    """The fault, or "": each node of a tree, but the root, is the child of exactly one earlier node."""
    children = np.concatenate([left, right]).astype(np.int64)
    if not np.array_equal(np.sort(children), np.arange(1, count)):
        return f"its {count} nodes are not one tree"
    if (children <= np.concatenate([parents, parents])).any():
        return "a child comes before its parent"
    return ""


def _within(indices: Any, size: int) -> bool:
    return bool(((indices >= 0) & (indices < size)).all())


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer)


def _is_array(value: Any) -> bool:
    return type(value) is np.ndarray


def _decision_tree(estimator: Any) -> Iterator[str]:
    own = attributes(estimator)
    if "tree_" not in own:
        return
    if not isinstance(own["tree_"], Tree):
        yield "its tree has the wrong type"
    elif not _is_int(own.get("n_features_in_")) or own["n_features_in_"] != own["tree_"].n_features:
        yield "it has another number of columns than its tree"


def _boosting(estimator: Any) -> Iterator[str]:
    """Compiled code adds up the predictions of all trees, and checks only the first of them."""
    own = attributes(estimator)
    if "estimators_" not in own:
        return
    stages = own["estimators_"]
    if not _is_array(stages) or stages.ndim == 0:
        yield "its trees are in no array"
        return
    outputs = own.get("n_trees_per_iteration_", stages.shape[-1])
    if not _is_int(outputs) or stages.size == 0 or stages.shape != (len(stages), outputs):
        yield "its trees are not arranged by stage and output"
    trees = [attributes(one).get("tree_") for one in stages.ravel() if isinstance(one, BaseDecisionTree)]
    columns = {tree.n_features for tree in trees if tree is not None}
    if len(trees) != stages.size or len(columns) != 1:
        yield "its trees do not have the same columns"


def _histogram_boosting(estimator: Any) -> Iterator[str]:
    own = attributes(estimator)
    if "_predictors" not in own:
        return
    columns, categorical = own["n_features_in_"], own["_bin_mapper"].is_categorical_
    if not _is_array(categorical) or not _is_int(columns) or categorical.shape != (columns,):
        yield "its bins are for other columns than its own"
        return
    stages = own["_predictors"]
    if not all(type(one) is list for one in (stages, *stages)):
        yield "its trees are not in lists"
        return
    for predictor in (one for stage in stages for one in stage):
        yield from _histogram_tree(predictor, categorical.astype(bool))


def _histogram_tree(predictor: Any, categorical: Any) -> Iterator[str]:
    nodes, bitsets = predictor.nodes, predictor.raw_left_cat_bitsets
    if not isinstance(predictor, TreePredictor) or not _is_array(nodes) or not _is_array(bitsets):
        yield "a tree is not made of arrays"
        return
    parents = np.flatnonzero(nodes["is_leaf"] == 0)
    inner = nodes[parents]
    fault = _branching(parents, inner["left"], inner["right"], len(nodes))
    if fault or len(nodes) == 0:
        yield fault or "a tree has no nodes"
        return
    if not _within(inner["feature_idx"], categorical.size):
        yield f"a split uses a column beyond its {categorical.size} columns"
        return
    sets = inner[inner["is_categorical"] != 0]
    if not categorical[sets["feature_idx"]].all() or not _within(sets["bitset_idx"], len(bitsets)):
        yield "a split uses categories that do not exist"
    if bitsets.ndim != 2 or bitsets.shape[1] != 8:  # noqa: PLR2004 - 256 categories are 8 words of 32 bits
        yield "its sets of categories do not have 256 bits"


def _neighbours(tree: Any) -> Iterator[str]:
    data, order, nodes, bounds, _, _, count, *_, metric, weights = tree.__getstate__()
    size, columns = data.shape
    if order.shape != (size,) or not _within(order, size):
        yield "it refers to rows that do not exist"
    sides = 2 if isinstance(tree, KDTree) else 1
    if nodes.shape != (count,) or count < 1 or bounds.shape != (sides, count, columns):
        yield f"it claims {count} nodes and has {nodes.size}"
    begin, end = nodes["idx_start"], nodes["idx_end"]
    if not ((begin >= 0) & (begin <= end) & (end <= size)).all():
        yield "a node begins or ends outside the rows"
    # The children of node i are 2i + 1 and 2i + 2.
    if (2 * np.flatnonzero(nodes["is_leaf"] == 0) + 2 >= count).any():
        yield "a node has children that do not exist"
    if weights is not None and weights.shape != (size,):
        yield "it does not have one weight for each row"
    metric._validate_data(data)  # noqa: SLF001 - the check that scikit-learn makes before it builds a tree
    if type(metric).__name__.startswith("Mahalanobis") and metric.__getstate__()[2].shape != (
        columns,
        columns,
    ):
        yield "its distance metric is for other columns"


def _sparse(matrix: Any) -> Iterator[str]:
    if matrix.format in ("csr", "csc", "bsr"):
        matrix.check_format(full_check=True)
    yield from ()


def _random(source: Any) -> Iterator[str]:
    state = source.bit_generator.state if hasattr(source, "bit_generator") else source.get_state(legacy=False)
    if not 0 <= state["state"].get("pos", 0) <= 624 or not 0 <= state.get("buffer_pos", 0) <= 4:  # noqa: PLR2004
        yield "its next number is outside of its memory"


def _spline(spline: Any) -> Iterator[str]:
    # The constructor, which loading does not call, makes the checks.
    own = attributes(spline)
    BSpline(own["_t"], own["_c"], own["k"], own["extrapolate"]) if "_t" in own else BSpline(*spline.tck)
    yield from ()


_CHECKS = (
    (object, _hidden_methods),
    (Tree, _tree),
    (BaseDecisionTree, _decision_tree),
    ((GradientBoostingClassifier, GradientBoostingRegressor), _boosting),
    ((HistGradientBoostingClassifier, HistGradientBoostingRegressor), _histogram_boosting),
    ((BallTree, KDTree), _neighbours),
    ((sparray, spmatrix), _sparse),
    ((np.random.Generator, np.random.RandomState), _random),
    (BSpline, _spline),
)
