"""The reviewed list: the types and functions that a skops file may contain beyond those that skops trusts.

skops creates only objects whose types are trusted by name. By itself it trusts Python's plain types, numpy's
and scipy's ufuncs, and scikit-learn's public estimators; fitted models contain more types than that.

A name is on the list if the following holds, even in a file made by an attacker:

1. it is part of numpy, scipy or scikit-learn, so that importing it runs only their code;
2. creating it runs no code that the file chooses: its constructor and `__setstate__` only store and
   convert their arguments. All other objects in the file have passed the same review, so the stored
   arguments are harmless too;
3. a function only computes. None reads or writes files, looks up names, or evaluates text. It is accepted as
   the value of one attribute only (see `PLACES`), so that scikit-learn decides how it is called;
4. a popular model needs it: `tests/unit/models/test_trusted_list.py` trains one of each, and fails for a
   name that none of them contains.

A name is trusted only under the loaders with which skops writes it (see `LOADERS`): other loaders of skops
call their objects, and what is harmless as an attribute may not be harmless to call.

Left out on purpose: functions in general, numpy's reductions among them (`functools.partial` is allowed
around `check_array` only), distances and scorers that call a user's function, pandas, third-party packages.

The review does not say that scikit-learn's compiled code is safe with any numbers. skops leaves out
decision trees for that reason; eventml accepts them, and `soundness.py` checks their structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


def _each(module: str, names: str) -> frozenset[str]:
    return frozenset(f"{module}.{name}".lstrip(".") for name in names.split())


_SKLEARN_OBJECTS: Final = (
    # Histogram boosting: arrays of nodes, and of the thresholds between bins.
    _each("sklearn.ensemble._hist_gradient_boosting.predictor", "TreePredictor")
    | _each("sklearn.ensemble._hist_gradient_boosting.binning", "_BinMapper")
    # Losses and links: formulas with a few numbers as attributes.
    | _each(
        "sklearn._loss.loss",
        "AbsoluteError ExponentialLoss HalfBinomialLoss HalfGammaLoss HalfMultinomialLoss HalfPoissonLoss "
        "HalfSquaredError HalfTweedieLoss HalfTweedieLossIdentity HuberLoss PinballLoss",
    )
    | _each("sklearn._loss.link", "HalfLogitLink IdentityLink Interval LogLink LogitLink MultinomialLogit")
    # Nearest neighbours: arrays, and the distance by which they were sorted. PyFuncDistance is left
    # out, because it calls a user's function.
    | _each("sklearn.neighbors._kd_tree", "KDTree")
    | _each("sklearn.neighbors._ball_tree", "BallTree")
    | _each(
        "sklearn.metrics._dist_metrics",
        "CanberraDistance64 ChebyshevDistance64 EuclideanDistance64 HammingDistance64 HaversineDistance64 "
        "MahalanobisDistance64 ManhattanDistance64 MinkowskiDistance64 SEuclideanDistance64",
    )
    # Gaussian processes: kernels keep hyperparameters, the private classifier a fitted kernel.
    | _each(
        "sklearn.gaussian_process.kernels",
        "ConstantKernel DotProduct ExpSineSquared Matern Product RBF RationalQuadratic Sum WhiteKernel",
    )
    | _each("sklearn.gaussian_process._gpc", "_BinaryGaussianProcessClassifierLaplace")
    # Neural networks: the state of the optimiser.
    | _each("sklearn.neural_network._stochastic_optimizers", "AdamOptimizer SGDOptimizer")
    # Meta-estimators: fitted parts in private classes, all of plain attributes.
    | _each("sklearn.calibration", "_CalibratedClassifier _SigmoidCalibration _TemperatureScaling")
    | _each("sklearn.multiclass", "_ConstantPredictor")
    | _each("sklearn.cluster._bisect_k_means", "_BisectingTree")
    | _each("sklearn.compose._column_transformer", "make_column_selector _RemainderColsList")
    | _each("sklearn.utils._metadata_requests", "MetadataRequest MethodMetadataRequest")
    # An experimental estimator of scikit-learn: skops trusts it only after it is enabled.
    | _each("sklearn.impute._iterative", "IterativeImputer")
    # Searches: splitters and scorers. The function that a scorer names must be trusted itself.
    | _each(
        "sklearn.model_selection._split",
        "GroupKFold KFold PredefinedSplit RepeatedKFold RepeatedStratifiedKFold ShuffleSplit "
        "StratifiedGroupKFold StratifiedKFold StratifiedShuffleSplit TimeSeriesSplit",
    )
    | _each("sklearn.metrics._scorer", "_CurveScorer _PassthroughScorer _Scorer")
)

_SCIPY_OBJECTS: Final = _each("scipy.interpolate._bsplines", "BSpline")  # in SplineTransformer

_SCORES: Final = _each(
    "sklearn.feature_selection._univariate_selection", "chi2 f_classif f_regression"
) | _each("sklearn.feature_selection._mutual_info", "mutual_info_classif mutual_info_regression")

_METRICS: Final = (
    _each(
        "sklearn.metrics._classification",
        "accuracy_score balanced_accuracy_score brier_score_loss f1_score fbeta_score log_loss "
        "matthews_corrcoef precision_score recall_score",
    )
    | _each("sklearn.metrics._ranking", "average_precision_score roc_auc_score")
    | _each(
        "sklearn.metrics._regression",
        "mean_absolute_error mean_absolute_percentage_error mean_poisson_deviance mean_squared_error "
        "mean_squared_log_error median_absolute_error r2_score root_mean_squared_error",
    )
)

PLACES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        # FeatureAgglomeration calls it with the columns of a cluster, along their axis.
        "pooling_func": _each("numpy", "mean median"),
        # Selectors of columns call it in `fit` only.
        "score_func": _SCORES,
        # One run of k-means, which BisectingKMeans stores for its next split.
        "_kmeans_single": _each("sklearn.cluster._kmeans", "_kmeans_single_elkan _kmeans_single_lloyd"),
        # A BSpline's conversion of coefficients to arrays.
        "_asarray": _each("scipy._lib.array_api_compat.numpy._aliases", "asarray"),
        # Repeated splitters store the class of their splitter.
        "cv": _each("sklearn.model_selection._split", "KFold StratifiedKFold"),
        # Scorers call it in `score` of a search, with the target and predictions.
        "_score_func": _METRICS,
    }
)
"""Functions and types, by the name of the one attribute whose value each may be."""

UFUNC_PLACES: Final = frozenset({"func", "inverse_func"})
"""Attributes that may be a ufunc of one argument: element-wise arithmetic, called with one array."""

# Histogram boosting with categories checks its input with it. Allowed in a `functools.partial` only.
ARRAY_CHECK: Final = "sklearn.utils.validation.check_array"

_FUNCTIONS: Final = {ARRAY_CHECK}.union(*PLACES.values()) - PLACES["cv"]

REVIEWED_LOADERS: Final = _each(
    "",
    "DTypeNode DictNode FunctionNode JsonNode ListNode LossNode MaskedArrayNode NdArrayNode ObjectNode "
    "PartialNode RandomGeneratorNode RandomStateNode SliceNode SparseMatrixNode TreeNode TupleNode "
    # By these skops loads what a user trusts by name, and nothing else.
    "TypeNode ConstructorFromReduceNode MethodNode OperatorFuncNode",
)
"""The loaders by which a type may be loaded that skops itself trusts.

Left out are bytes, `defaultdict`, which calls its factory, and references to other nodes.
"""

PLAIN_DICTIONARIES: Final = _each("", "builtins.dict collections.OrderedDict")
"""Types of dictionaries whose keys cannot become attributes."""

TUPLE_STATES: Final = (
    "sklearn.metrics._dist_metrics.",
    "sklearn.neighbors._ball_tree.",
    "sklearn.neighbors._kd_tree.",
)
"""The modules of compiled types whose state is a tuple."""

LOADERS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        # Created by `__new__`, then its attributes or its state are set.
        **dict.fromkeys(_SKLEARN_OBJECTS | _SCIPY_OBJECTS, frozenset({"ObjectNode"})),
        # Imported, and not called while loading.
        **dict.fromkeys(_FUNCTIONS, frozenset({"FunctionNode"})),
        # A decision tree's arrays, with a constructor that skops fixes.
        "sklearn.tree._tree.Tree": frozenset({"TreeNode"}),
        # A dictionary with its keys as attributes.
        "sklearn.utils._bunch.Bunch": frozenset({"DictNode"}),
        # A named tuple.
        "sklearn.impute._iterative._ImputerTriplet": frozenset({"TupleNode"}),
        # Repeated splitters store the class of their splitter.
        "sklearn.model_selection._split.KFold": frozenset({"ObjectNode", "TypeNode"}),
        "sklearn.model_selection._split.StratifiedKFold": frozenset({"ObjectNode", "TypeNode"}),
        # Read by numpy and scipy from their own formats, without pickles.
        "numpy.dtype": frozenset({"DTypeNode"}),
        **dict.fromkeys(_each("scipy.sparse._csr", "csr_array csr_matrix"), frozenset({"SparseMatrixNode"})),
        # The class of all numbers, by which columns are selected.
        "numpy.number": frozenset({"TypeNode"}),
        # Allowed around `check_array` only: see `sklearn_models.py`.
        "functools.partial": frozenset({"PartialNode"}),
    }
)
"""Every reviewed name, with the loaders of the skops format under which it is trusted."""
