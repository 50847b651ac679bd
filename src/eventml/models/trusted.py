"""The reviewed list: what a skops file may hold, beyond what skops itself trusts.

skops makes nothing that is not trusted by name. By itself it trusts Python's plain types, numpy's
and scipy's ufuncs, and scikit-learn's public estimators; fitted models hold more than that.

What review means here. A name is on the list if, loaded from a file of somebody else's making,

1. it is part of numpy, scipy or scikit-learn, so that importing it runs only their code;
2. making it runs no code that the file chooses: its constructor and `__setstate__` only store and
   convert what they are given. Whatever else a file holds has passed the same review, so what is
   stored is harmless too;
3. for a function: called with whatever the file holds (a `FunctionTransformer` lets it), it only
   computes. None reads or writes files, looks anything up by name, or evaluates text.

A name is trusted only where skops would write it (see `LOADERS`): skops' other ways to make things
call what they are given, and a list for attributes is not one for calls.

Not on the list, on purpose: callables in general (`functools.partial` is allowed around a listed
function only), distances and scorers that call a function of the user's, pandas, third parties.

What review does not mean: that scikit-learn's compiled code survives any numbers. skops leaves out
decision trees for that reason; eventml takes them, and `soundness.py` checks their structure.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


def _each(module: str, names: str) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for name in names.split())


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
    # Nearest neighbours: arrays, and the distance by which they were sorted. PyFuncDistance is not
    # here: it calls a function of the user's.
    | _each("sklearn.neighbors._kd_tree", "KDTree")
    | _each("sklearn.neighbors._ball_tree", "BallTree")
    | _each(
        "sklearn.metrics._dist_metrics",
        "BrayCurtisDistance64 CanberraDistance64 ChebyshevDistance64 DiceDistance64 EuclideanDistance64 "
        "HammingDistance64 HaversineDistance64 JaccardDistance64 MahalanobisDistance64 ManhattanDistance64 "
        "MinkowskiDistance64 RogersTanimotoDistance64 RussellRaoDistance64 SEuclideanDistance64 "
        "SokalMichenerDistance64 SokalSneathDistance64",
    )
    # Gaussian processes: kernels keep hyperparameters, the private classifier a fitted kernel.
    | _each(
        "sklearn.gaussian_process.kernels",
        "CompoundKernel ConstantKernel DotProduct ExpSineSquared Exponentiation Hyperparameter Matern "
        "PairwiseKernel Product RBF RationalQuadratic Sum WhiteKernel",
    )
    | _each("sklearn.gaussian_process._gpc", "_BinaryGaussianProcessClassifierLaplace")
    # Neural networks: what the optimiser remembers of its steps.
    | _each("sklearn.neural_network._stochastic_optimizers", "AdamOptimizer SGDOptimizer")
    # Meta-estimators: fitted parts in private classes, all of plain attributes.
    | _each("sklearn.calibration", "_CalibratedClassifier _SigmoidCalibration _TemperatureScaling")
    | _each("sklearn.multiclass", "_ConstantPredictor")
    | _each("sklearn.cluster._bisect_k_means", "_BisectingTree")
    | _each("sklearn.compose._column_transformer", "make_column_selector _RemainderColsList")
    | _each("sklearn.utils._metadata_requests", "MetadataRequest MethodMetadataRequest")
    # Estimators that scikit-learn calls experimental: skops trusts them only once they are enabled.
    | _each("sklearn.impute._iterative", "IterativeImputer")
    | _each("sklearn.model_selection._search_successive_halving", "HalvingGridSearchCV HalvingRandomSearchCV")
    # Searches: how the data was split, and who counted the score. A scorer names a function, which
    # must be trusted itself.
    | _each(
        "sklearn.model_selection._split",
        "GroupKFold GroupShuffleSplit KFold LeaveOneGroupOut LeaveOneOut LeavePGroupsOut LeavePOut "
        "PredefinedSplit RepeatedKFold RepeatedStratifiedKFold ShuffleSplit StratifiedGroupKFold "
        "StratifiedKFold StratifiedShuffleSplit TimeSeriesSplit _CVIterableWrapper",
    )
    | _each(
        "sklearn.metrics._scorer",
        "_CurveScorer _MultimetricScorer _PassthroughScorer _PredictScorer _ProbaScorer _Scorer "
        "_ThresholdScorer",
    )
)

_SCIPY_OBJECTS: Final = _each("scipy.interpolate._bsplines", "BSpline")  # SplineTransformer's curves

_FUNCTIONS: Final = (
    # Histogram boosting with categories checks its input through one; arrays in, the array out.
    _each("sklearn.utils.validation", "check_array")
    # How columns are scored and chosen.
    | _each(
        "sklearn.feature_selection._univariate_selection", "chi2 f_classif f_oneway f_regression r_regression"
    )
    | _each("sklearn.feature_selection._mutual_info", "mutual_info_classif mutual_info_regression")
    # How clusters of columns are pooled, and what a spline makes its coefficients arrays with.
    | _each("numpy", "amax amin max mean median min sum")
    | _each("scipy._lib.array_api_compat.numpy._aliases", "asarray")
    # One run of k-means, which BisectingKMeans keeps for its next split.
    | _each("sklearn.cluster._kmeans", "_kmeans_single_elkan _kmeans_single_lloyd")
    # Metrics, as scorers name them: arithmetic on two arrays.
    | _each(
        "sklearn.metrics._classification",
        "accuracy_score balanced_accuracy_score brier_score_loss cohen_kappa_score d2_brier_score "
        "d2_log_loss_score f1_score fbeta_score jaccard_score log_loss matthews_corrcoef precision_score "
        "recall_score",
    )
    | _each(
        "sklearn.metrics._ranking", "average_precision_score ndcg_score roc_auc_score top_k_accuracy_score"
    )
    | _each(
        "sklearn.metrics._regression",
        "d2_absolute_error_score d2_pinball_score d2_tweedie_score explained_variance_score max_error "
        "mean_absolute_error mean_absolute_percentage_error mean_gamma_deviance mean_pinball_loss "
        "mean_poisson_deviance mean_squared_error mean_squared_log_error mean_tweedie_deviance "
        "median_absolute_error r2_score root_mean_squared_error root_mean_squared_log_error",
    )
    | _each("sklearn.metrics._scorer", "negative_likelihood_ratio positive_likelihood_ratio")
    | _each(
        "sklearn.metrics.cluster._supervised",
        "adjusted_mutual_info_score adjusted_rand_score completeness_score fowlkes_mallows_score "
        "homogeneity_score mutual_info_score normalized_mutual_info_score rand_score v_measure_score",
    )
)

_SPARSE: Final = frozenset(
    f"scipy.sparse._{format_}.{format_}_{kind}"
    for format_ in ("bsr", "coo", "csc", "csr", "dia")
    for kind in ("array", "matrix")
)

LOADERS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        # Made by `__new__`, then given its attributes or handed its state.
        **dict.fromkeys(_SKLEARN_OBJECTS | _SCIPY_OBJECTS, frozenset({"ObjectNode"})),
        # Imported, and called by nothing while loading.
        **dict.fromkeys(_FUNCTIONS, frozenset({"FunctionNode"})),
        # A decision tree's arrays, through a constructor that skops fixes.
        "sklearn.tree._tree.Tree": frozenset({"TreeNode"}),
        # A dictionary whose keys are attributes as well.
        "sklearn.utils._bunch.Bunch": frozenset({"DictNode"}),
        # A tuple whose places have names.
        "sklearn.impute._iterative._ImputerTriplet": frozenset({"TupleNode"}),
        # Repeated splits keep the class of one split.
        "sklearn.model_selection._split.KFold": frozenset({"ObjectNode", "TypeNode"}),
        "sklearn.model_selection._split.StratifiedKFold": frozenset({"ObjectNode", "TypeNode"}),
        # Read by numpy and scipy from their own formats, with pickles refused.
        "numpy.dtype": frozenset({"DTypeNode"}),
        **dict.fromkeys(_SPARSE, frozenset({"SparseMatrixNode"})),
        # Classes of numbers, by which columns are selected.
        **dict.fromkeys(_each("numpy", "floating generic inexact integer number"), frozenset({"TypeNode"})),
        # Allowed around a listed function only: see `from_skops`.
        "functools.partial": frozenset({"PartialNode"}),
    }
)
"""Every reviewed name, and the loaders of skops' format under which it is trusted."""


def is_function(name: str) -> bool:
    """Whether it is a reviewed function."""
    return name in _FUNCTIONS
