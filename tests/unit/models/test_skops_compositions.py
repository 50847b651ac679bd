"""What models are made of in practice loads from skops files with no trust given."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.sparse import csr_array  # type: ignore[import-untyped]  # scipy has no types
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import BisectingKMeans, FeatureAgglomeration
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    BaggingRegressor,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingRegressor,
)
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - importing it is what enables it
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import (
    SelectKBest,
    chi2,
    f_classif,
    f_regression,
    mutual_info_classif,
    mutual_info_regression,
)
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import (
    ConstantKernel,
    DotProduct,
    ExpSineSquared,
    Matern,
    RationalQuadratic,
    WhiteKernel,
)
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier, TweedieRegressor
from sklearn.metrics import fbeta_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    PredefinedSplit,
    RandomizedSearchCV,
    RepeatedKFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
    TimeSeriesSplit,
)
from sklearn.multioutput import RegressorChain
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    PowerTransformer,
    SplineTransformer,
    StandardScaler,
)
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

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
GROUPS = np.arange(60) // 6
TEXTS = [f"hello world {i}" for i in range(60)]


def searched(splitter: Any, scoring: str, groups: Any = GROUPS) -> FrozenEstimator:
    """A fitted search: its splitter needs groups."""
    search = GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=splitter, scoring=scoring)
    return FrozenEstimator(search.fit(X, KIND % 2, groups=groups))


SPECIAL: dict[str, tuple[Any, Any, Any]] = {
    "search by groups": (searched(GroupKFold(2), "matthews_corrcoef"), X, KIND % 2),
    "search by groups and classes": (searched(StratifiedGroupKFold(2), "neg_brier_score"), X, KIND % 2),
    "search by folds": (searched(PredefinedSplit(np.arange(60) // 6 % 2), "accuracy", None), X, KIND % 2),
    "forest of missing values": (RandomForestRegressor(5, oob_score=True), HOLES, AMOUNT),
    "forest of two outputs": (RandomForestClassifier(5, class_weight="balanced"), X, BOTH),
    "forest with jobs": (ExtraTreesClassifier(5, n_jobs=2), X, KIND),
    "isolation of some columns": (IsolationForest(n_estimators=5, max_features=0.5), X, None),
    "bagging of some columns": (BaggingRegressor(n_estimators=5, max_features=0.5), X, AMOUNT),
    "best-first tree": (DecisionTreeRegressor(max_leaf_nodes=7), X, AMOUNT),
    "pruned tree": (DecisionTreeRegressor(ccp_alpha=0.05), X, AMOUNT),
    "tree of one leaf": (DecisionTreeRegressor(max_depth=1, min_samples_leaf=40), X, AMOUNT),
    **{
        f"boosting by {loss}": (
            GradientBoostingRegressor(loss=loss, n_estimators=5),
            X,
            AMOUNT,
        )
        for loss in ("absolute_error", "huber", "quantile", "squared_error")
    },
    "boosting of three classes": (GradientBoostingClassifier(n_estimators=5), X, KIND),
    "exponential boosting": (
        GradientBoostingClassifier(loss="exponential", n_estimators=5),
        X,
        KIND % 2,
    ),
    "boosting from a line": (
        GradientBoostingRegressor(init=LinearRegression(), n_estimators=5),
        X,
        AMOUNT,
    ),
    "boosting from zero": (GradientBoostingRegressor(init="zero", n_estimators=5), X, AMOUNT),
    "boosting from a dummy": (
        GradientBoostingClassifier(init=DummyClassifier(strategy="prior"), n_estimators=5),
        X,
        KIND,
    ),
    **{
        f"histogram boosting by {loss}": (
            HistGradientBoostingRegressor(
                loss=loss, max_iter=5, quantile=0.3 if loss == "quantile" else None
            ),
            HOLES,
            AMOUNT,
        )
        for loss in ("absolute_error", "gamma", "poisson", "quantile", "squared_error")
    },
    "histogram boosting of two classes": (HistGradientBoostingClassifier(max_iter=5), X, KIND % 2),
    "histogram boosting of categories": (
        HistGradientBoostingRegressor(categorical_features=[0], max_iter=5),
        CODES,
        AMOUNT,
    ),
    "histogram boosting under constraints": (
        HistGradientBoostingRegressor(
            monotonic_cst=[1, 0, 0, 0],
            interaction_cst="pairwise",
            early_stopping=True,
            scoring="loss",
            max_iter=5,
        ),
        X,
        AMOUNT,
    ),
    **{
        f"{algorithm} by {metric}": (
            KNeighborsRegressor(algorithm=algorithm, metric=metric, metric_params=more),
            X,
            AMOUNT,
        )
        for algorithm, metric, more in (
            ("kd_tree", "euclidean", None),
            ("kd_tree", "chebyshev", None),
            ("ball_tree", "manhattan", None),
            ("ball_tree", "canberra", None),
            ("ball_tree", "hamming", None),
            ("ball_tree", "seuclidean", {"V": np.ones(4)}),
            ("ball_tree", "mahalanobis", {"VI": np.eye(4)}),
            ("ball_tree", "minkowski", {"w": np.ones(4)}),
        )
    },
    "neighbours on the globe": (
        KNeighborsRegressor(algorithm="ball_tree", metric="haversine"),
        X[:, :2],
        AMOUNT,
    ),
    "neighbours of sparse rows": (KNeighborsRegressor(algorithm="brute"), csr_array(X), AMOUNT),
    "the taxi exercise": (make_pipeline(DictVectorizer(), LinearRegression()), ROWS, AMOUNT),
    "dictionaries to a forest": (
        make_pipeline(DictVectorizer(), RandomForestRegressor(5)),
        ROWS,
        AMOUNT,
    ),
    "texts": (make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LinearSVC()), TEXTS, KIND),
    "imputed": (make_pipeline(SimpleImputer(add_indicator=True), Ridge()), HOLES, AMOUNT),
    "imputed by a model": (IterativeImputer(RandomForestRegressor(2), max_iter=2), HOLES, None),
    "splines": (make_pipeline(SplineTransformer(extrapolation="periodic"), Ridge()), X, AMOUNT),
    **{
        f"columns chosen by {score.__name__}": (
            make_pipeline(SelectKBest(score, k=2), DecisionTreeClassifier(max_depth=2)),
            X,
            KIND,
        )
        for score in (chi2, f_classif, mutual_info_classif)
    },
    **{
        f"columns chosen by {score.__name__}": (make_pipeline(SelectKBest(score, k=2), Ridge()), X, AMOUNT)
        for score in (f_regression, mutual_info_regression)
    },
    "side by side": (
        FeatureUnion([("a", StandardScaler()), ("b", Pipeline([("c", PowerTransformer())]))]),
        X,
        None,
    ),
    "logarithm of the target": (
        TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
        X,
        AMOUNT,
    ),
    "calibrated by temperature": (
        CalibratedClassifierCV(LogisticRegression(), method="temperature"),
        X,
        KIND,
    ),
    "calibrated": (CalibratedClassifierCV(RandomForestClassifier(3), method="isotonic"), X, KIND),
    "stacked": (
        StackingRegressor(
            [("ridge", Ridge()), ("forest", RandomForestRegressor(3))],
            final_estimator=HistGradientBoostingRegressor(max_iter=3),
        ),
        X,
        AMOUNT,
    ),
    "chain of boosting": (
        RegressorChain(HistGradientBoostingRegressor(max_iter=3)),
        X,
        np.column_stack([AMOUNT, AMOUNT]),
    ),
    **{
        f"search by {score}": (GridSearchCV(Ridge(), {"alpha": [1.0]}, scoring=score, cv=2), X, AMOUNT)
        for score in (
            "r2",
            "neg_mean_absolute_error",
            "neg_mean_absolute_percentage_error",
            "neg_mean_poisson_deviance",
            "neg_mean_squared_error",
            "neg_mean_squared_log_error",
            "neg_median_absolute_error",
            "neg_root_mean_squared_error",
        )
    },
    **{
        f"search by {score}": (
            GridSearchCV(LogisticRegression(), {"C": [1.0]}, scoring=score, cv=2),
            X,
            KIND % 2,
        )
        for score in (
            "average_precision",
            "balanced_accuracy",
            "f1",
            "neg_log_loss",
            "precision",
            "recall",
            make_scorer(fbeta_score, beta=2),
        )
    },
    **{
        f"search by {type(splits).__name__}": (
            RandomizedSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, n_iter=2, cv=splits),
            X,
            KIND % 2,
        )
        for splits in (
            KFold(2),
            RepeatedKFold(n_splits=2, n_repeats=1),
            RepeatedStratifiedKFold(n_splits=2, n_repeats=1),
            StratifiedKFold(2),
            StratifiedShuffleSplit(2),
            TimeSeriesSplit(2),
        )
    },
    "search by two scores": (
        GridSearchCV(
            LogisticRegression(),
            {"C": [1.0]},
            scoring=["accuracy", "roc_auc_ovr"],
            refit="accuracy",
            cv=ShuffleSplit(2),
        ),
        X,
        KIND,
    ),
    "process of mixed kernels": (
        GaussianProcessRegressor(
            ConstantKernel() * Matern() + RationalQuadratic() + WhiteKernel(), optimizer=None
        ),
        X,
        AMOUNT,
    ),
    "process with a period": (
        GaussianProcessRegressor(DotProduct() + ExpSineSquared(), alpha=1.0, optimizer=None),
        X[:, :1],
        AMOUNT,
    ),
    "network by descent": (MLPRegressor(max_iter=3, solver="sgd"), X, AMOUNT),
    **{
        f"line by {loss}": (SGDClassifier(loss=loss), X, KIND)
        for loss in ("hinge", "log_loss", "modified_huber", "squared_hinge", "huber", "epsilon_insensitive")
    },
    "compound distribution": (TweedieRegressor(power=1.5, link="log"), X, AMOUNT),
    "bisected clusters": (BisectingKMeans(3, algorithm="elkan"), X, None),
    "columns pooled by the median": (FeatureAgglomeration(2, pooling_func=np.median), X, None),
    "seeded by a state": (RandomForestRegressor(3, random_state=np.random.RandomState(1)), X, AMOUNT),
}


@pytest.mark.parametrize("case", SPECIAL)
def test_it_loads_untrusted_and_answers_as_before(
    case: str, assert_survives: Callable[[Any, Any], Any]
) -> None:
    unfitted, inputs, target = SPECIAL[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too few iterations, and the like: not what is tested
        estimator = clone(unfitted).fit(inputs, target)

    assert_survives(estimator, inputs)
