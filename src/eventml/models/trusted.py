"""The reviewed list: the types and functions that a skops file may contain beyond those that skops trusts.

skops creates only objects whose types are trusted by name. By itself it trusts Python's plain types, numpy's
and scipy's ufuncs, and scikit-learn's public estimators; fitted models contain more types than that.

A name is on the list if the following holds, even in a file made by an attacker:

1. it is part of numpy, scipy or scikit-learn, so that importing it runs only their code;
2. creating it runs no code that the file chooses: its constructor and `__setstate__` only store and
   convert their arguments. All other objects in the file have passed the same review, so the stored
   arguments are harmless too;
3. a function only computes, with any object of the file as its argument (a `FunctionTransformer` can call
   it so). None reads or writes files, looks up names, or evaluates text.

A name is trusted only under the loaders with which skops writes it (see `LOADERS`): other loaders of skops
call their objects, and what is harmless as an attribute may not be harmless to call.

Left out on purpose: callables in general (`functools.partial` is allowed around a listed function only),
distances and scorers that call a user's function, pandas, third-party packages.

The review does not say that scikit-learn's compiled code is safe with any numbers. skops leaves out
decision trees for that reason; eventml accepts them, and `soundness.py` checks their structure.
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
    # Nearest neighbours: arrays, and the distance by which they were sorted. PyFuncDistance is left
    # out, because it calls a user's function.
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
    # Neural networks: the state of the optimiser.
    | _each("sklearn.neural_network._stochastic_optimizers", "AdamOptimizer SGDOptimizer")
    # Meta-estimators: fitted parts in private classes, all of plain attributes.
    | _each("sklearn.calibration", "_CalibratedClassifier _SigmoidCalibration _TemperatureScaling")
    | _each("sklearn.multiclass", "_ConstantPredictor")
    | _each("sklearn.cluster._bisect_k_means", "_BisectingTree")
    | _each("sklearn.compose._column_transformer", "make_column_selector _RemainderColsList")
    | _each("sklearn.utils._metadata_requests", "MetadataRequest MethodMetadataRequest")
    # Experimental estimators of scikit-learn: skops trusts them only after they are enabled.
    | _each("sklearn.impute._iterative", "IterativeImputer")
    | _each("sklearn.model_selection._search_successive_halving", "HalvingGridSearchCV HalvingRandomSearchCV")
    # Searches: splitters and scorers. The function that a scorer names must be trusted itself.
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

_SCIPY_OBJECTS: Final = _each("scipy.interpolate._bsplines", "BSpline")  # in SplineTransformer

FUNCTIONS: Final = (
    # Histogram boosting with categories checks its input with it; it takes and returns an array.
    _each("sklearn.utils.validation", "check_array")
    # Scores for selecting columns.
    | _each(
        "sklearn.feature_selection._univariate_selection", "chi2 f_classif f_oneway f_regression r_regression"
    )
    | _each("sklearn.feature_selection._mutual_info", "mutual_info_classif mutual_info_regression")
    # Pooling of column clusters, and the conversion of spline coefficients to arrays.
    | _each("numpy", "amax amin max mean median min sum")
    | _each("scipy._lib.array_api_compat.numpy._aliases", "asarray")
    # One run of k-means, which BisectingKMeans stores for its next split.
    | _each("sklearn.cluster._kmeans", "_kmeans_single_elkan _kmeans_single_lloyd")
    # Metrics that scorers name: arithmetic on two arrays.
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
        # Created by `__new__`, then its attributes or its state are set.
        **dict.fromkeys(_SKLEARN_OBJECTS | _SCIPY_OBJECTS, frozenset({"ObjectNode"})),
        # Imported, and not called while loading.
        **dict.fromkeys(FUNCTIONS, frozenset({"FunctionNode"})),
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
        **dict.fromkeys(_SPARSE, frozenset({"SparseMatrixNode"})),
        # Classes of numbers, by which columns are selected.
        **dict.fromkeys(_each("numpy", "floating generic inexact integer number"), frozenset({"TypeNode"})),
        # Allowed around a listed function only: see `sklearn_models.py`.
        "functools.partial": frozenset({"PartialNode"}),
    }
)
"""Every reviewed name, with the loaders of the skops format under which it is trusted."""
