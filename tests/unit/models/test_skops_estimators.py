"""scikit-learn's own estimators load from skops files with no trust given."""

from __future__ import annotations

import warnings
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.ensemble import (
    RandomForestRegressor,
)
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - importing it is what enables it
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.preprocessing import (
    KBinsDiscretizer,
    StandardScaler,
)
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import all_estimators

if TYPE_CHECKING:
    from collections.abc import Callable

random = np.random.default_rng(0)
X = random.random((60, 4)) + 0.1
AMOUNT = X @ np.array([1.0, 2.0, 3.0, 4.0])
KIND = np.arange(60) % 3
BOTH = np.column_stack([KIND == 0, KIND == 1]).astype(int)
HOLES = np.where(random.random(X.shape) < 0.1, np.nan, X)
CODES = np.column_stack([np.arange(60) % 5, X[:, 1:]])
ROWS = [{"pair": f"{i % 3}_{i % 5}", "distance": float(i)} for i in range(60)]
TEXTS = [f"hello world {i}" for i in range(60)]

# What the constructors, or data as small as this, cannot do without.
NEEDED: dict[str, dict[str, Any]] = {
    "ClassifierChain": {"estimator": LogisticRegression()},
    "ColumnTransformer": {"transformers": [("scale", StandardScaler(), [0, 1])]},
    "FeatureUnion": {"transformer_list": [("scale", StandardScaler()), ("bins", KBinsDiscretizer())]},
    "FixedThresholdClassifier": {"estimator": LogisticRegression()},
    "FrozenEstimator": {"estimator": LinearRegression().fit(X, AMOUNT)},
    "GaussianRandomProjection": {"n_components": 2},
    "GridSearchCV": {"estimator": Ridge(), "param_grid": {"alpha": [0.1, 1.0]}},
    "HalvingGridSearchCV": {"estimator": Ridge(), "param_grid": {"alpha": [0.1, 1.0]}},
    "HalvingRandomSearchCV": {"estimator": Ridge(), "param_distributions": {"alpha": [0.1, 1.0]}},
    "MultiOutputClassifier": {"estimator": DecisionTreeClassifier()},
    "MultiOutputRegressor": {"estimator": DecisionTreeRegressor()},
    "OneVsOneClassifier": {"estimator": LinearSVC()},
    "OneVsRestClassifier": {"estimator": LinearSVC()},
    "OutputCodeClassifier": {"estimator": LinearSVC()},
    "Pipeline": {"steps": [("scale", StandardScaler()), ("ridge", Ridge())]},
    "RandomizedSearchCV": {
        "estimator": RandomForestRegressor(n_estimators=2),
        "param_distributions": {"max_depth": [1, 2]},
        "n_iter": 2,
    },
    "RegressorChain": {"estimator": DecisionTreeRegressor()},
    "RFE": {"estimator": Ridge()},
    "RFECV": {"estimator": Ridge()},
    "SelfTrainingClassifier": {"estimator": LogisticRegression()},
    "SelectFromModel": {"estimator": RandomForestRegressor(n_estimators=2)},
    "SequentialFeatureSelector": {"estimator": Ridge()},
    "SparseRandomProjection": {"n_components": 2},
    "SparseCoder": {"dictionary": np.eye(4)},
    "StackingClassifier": {
        "estimators": [("tree", DecisionTreeClassifier()), ("line", LogisticRegression())]
    },
    "StackingRegressor": {"estimators": [("tree", DecisionTreeRegressor()), ("line", Ridge())]},
    "TunedThresholdClassifierCV": {"estimator": LogisticRegression()},
    "VotingClassifier": {"estimators": [("tree", DecisionTreeClassifier()), ("line", LogisticRegression())]},
    "VotingRegressor": {"estimators": [("tree", DecisionTreeRegressor()), ("line", Ridge())]},
}
PUBLIC: dict[str, Any] = dict(all_estimators())
# Kept small, where a default takes long.
SMALL: dict[str, dict[str, Any]] = {
    "FeatureHasher": {"n_features": 64},
    "HashingVectorizer": {"n_features": 64},
    "TSNE": {"max_iter": 250, "perplexity": 5.0},
    **{
        name: {"n_estimators": 5}
        for name, kind in PUBLIC.items()
        if "n_estimators" in signature(kind).parameters and name not in NEEDED
    },
}
# skops cannot save it: a tree of nodes that point at one another.
NOT_SAVED = {"Birch"}


# What takes neither numbers in rows nor one of the other common shapes, or accepts what it cannot use.
OWN_DATA: dict[str, tuple[Any, Any]] = {
    "ClassifierChain": (X, BOTH),
    "FeatureHasher": (ROWS, None),
    "HashingVectorizer": (TEXTS, None),
    "KernelCenterer": (X @ X.T, None),
    "PatchExtractor": (random.random((2, 20, 20)), None),
    "RegressorChain": (X, np.column_stack([AMOUNT, AMOUNT])),
}


def fitted(name: str) -> tuple[Any, Any]:
    """The estimator of that name, fitted to the first data that it takes, and that data."""
    data: list[tuple[Any, Any]] = [
        (X, AMOUNT),
        (X, KIND),
        (X, KIND % 2),
        (X, BOTH),
        (X, np.column_stack([AMOUNT, AMOUNT])),
        (X, None),
        (X[:, 0], AMOUNT),
        (KIND, None),
        (TEXTS, None),
        (ROWS, None),
        ([("a", "b"), ("c",)] * 30, None),
    ]
    kind = PUBLIC[name]
    chosen = {**NEEDED.get(name, {}), **SMALL.get(name, {})}
    if "random_state" in signature(kind).parameters:
        chosen["random_state"] = 0
    refusals: list[Exception] = []
    for inputs, target in [OWN_DATA[name]] if name in OWN_DATA else data:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # too few iterations, and the like: not what is tested
                estimator = kind(**chosen)
                return estimator.fit(inputs) if target is None else estimator.fit(inputs, target), inputs
        except (ValueError, TypeError, AttributeError) as exc:
            refusals.append(exc)
    raise ExceptionGroup("no data fits", refusals)


@pytest.mark.filterwarnings("ignore:Class .* is deprecated:FutureWarning")  # scikit-learn's own
@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - NOT_SAVED))
def test_every_public_estimator_loads_untrusted_and_answers_as_before(
    name: str, assert_survives: Callable[[Any, Any], Any]
) -> None:
    estimator, inputs = fitted(name)

    loaded = assert_survives(estimator, inputs)

    assert type(loaded) is PUBLIC[name]
