"""Every place where scikit-learn looks up an attribute, module or file by name, and why it is harmless.

Found by reading its source (version below) for calls of the functions in `LOOKUPS` whose name is no constant.
A later version may add one: read it, check it in `estimator_checks.py` if a file can choose the name, and
add it here.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import sklearn

READ = "1.9."  # the versions of scikit-learn that were read

CHECKED = "the name and the estimator are checked when a file is loaded"
CONSTANT = "the names are constants of scikit-learn; the estimator is checked where it is stored"
FIT = "called by `fit` only"
OWN = "the names are parameters or methods of a class, or names on scikit-learn's own list"
PATTERN = "the pattern is checked when a file is loaded"
FORMAT = "the pattern is a constant of scikit-learn"
NO_MODEL = "not reached by a model's methods: building, plotting, representation"

REVIEWED = {
    "__init__.py::__getattr__": NO_MODEL,
    "base.py::BaseEstimator.get_params": OWN,
    "calibration.py::CalibratedClassifierCV.fit": FIT,
    "calibration.py::_fit_classifier_calibrator_pair": FIT,
    "calibration.py::_fit_calibrator": FIT,
    "calibration.py::_CalibratedClassifier.predict_proba": CONSTANT,
    "cluster/_agglomerative.py::AgglomerativeClustering._fit": FIT,
    "cluster/_optics.py::OPTICS.fit": FIT,
    "pipeline.py::Pipeline._fit": FIT,
    "utils/validation.py::check_memory": FIT,
    "compose/_column_transformer.py::_feature_names_out_with_str_format": PATTERN,
    "ensemble/_gb.py::VerboseReporter.update": FORMAT,
    "feature_selection/_variance_threshold.py::VarianceThreshold.fit": FORMAT,
    "metrics/_classification.py::_warn_prf": FORMAT,
    "metrics/_classification.py::classification_report": FORMAT,
    "multiclass.py::OneVsRestClassifier.partial_fit": FORMAT,
    "neighbors/_nca.py::NeighborhoodComponentsAnalysis._loss_grad_lbfgs": FORMAT,
    "preprocessing/_encoders.py::OneHotEncoder._set_drop_idx": FORMAT,
    "preprocessing/_encoders.py::OneHotEncoder.inverse_transform": FORMAT,
    "preprocessing/_encoders.py::OrdinalEncoder.inverse_transform": FORMAT,
    "preprocessing/_function_transformer.py::FunctionTransformer.transform": FORMAT,
    "utils/_metadata_requests.py::RequestMethod.__get__": FORMAT,
    "ensemble/_base.py::BaseEnsemble._make_estimator": FIT,
    "ensemble/_stacking.py::_BaseStacking._method_name": FIT,
    "ensemble/_stacking.py::_BaseStacking.fit": FIT,
    "ensemble/_stacking.py::_BaseStacking._transform": CHECKED,  # estimators_, stack_method_
    "feature_extraction/text.py::_VectorizerMixin.decode": CHECKED,  # input="filename"
    "feature_selection/_base.py::_get_feature_importances": CHECKED,  # importance_getter: it is not called
    "frozen/_frozen.py::_estimator_has.check": CONSTANT,
    "frozen/_frozen.py::FrozenEstimator.__getattr__": CONSTANT,
    "gaussian_process/kernels.py::Kernel.get_params": OWN,
    "gaussian_process/kernels.py::Kernel.hyperparameters": OWN,
    "kernel_approximation.py::Nystroem._get_kernel_params": OWN,
    "metrics/_scorer.py::_cached_call": CHECKED,  # _response_method
    "metrics/_scorer.py::_MultimetricScorer._use_cache": CHECKED,
    "metrics/_scorer.py::_Scorer._score": CHECKED,
    # response_method
    "model_selection/_classification_threshold.py::FixedThresholdClassifier.predict": CHECKED,
    "model_selection/_classification_threshold.py::TunedThresholdClassifierCV.predict": CHECKED,
    "model_selection/_search.py::_search_estimator_has.check": CONSTANT,
    "model_selection/_split.py::_build_repr": NO_MODEL,
    "model_selection/_validation.py::_fit_and_predict": FIT,
    "multiclass.py::_estimators_has.check": CONSTANT,
    "multioutput.py::_BaseChain._get_predictions": CHECKED,  # estimators_, chain_method_
    "multioutput.py::_BaseChain.fit": FIT,
    "pipeline.py::_final_estimator_has.check": CONSTANT,
    **{
        f"utils/_metadata_requests.py::{function}": OWN
        for function in (
            "MetadataRequest.__sklearn_clone__",
            "MetadataRequest.consumes",
            "MetadataRequest.__getattr__",
            "MetadataRequest._get_param_names",
            "MetadataRequest._route_params",
            "MetadataRequest._check_warnings",
            "MetadataRequest._serialize",
            "RequestMethod.__get__.func",
            "_MetadataRequester._get_class_level_metadata_request_values",
        )
    },
    "utils/_param_validation.py::HasMethods.is_satisfied_by": OWN,
    "utils/_plotting.py::_BinaryClassifierCurveDisplayMixin._validate_and_get_response_values": NO_MODEL,
    "utils/_response.py::_get_response_values": CHECKED,  # by its callers
    "utils/_response.py::_get_response_values_binary": CHECKED,
    "utils/_set_output.py::check_library_installed": OWN,  # pandas or polars; another name raises before
    "utils/_set_output.py::_SetOutputMixin.__init_subclass__": OWN,
    "utils/_sparse.py::_align_api_if_sparse": OWN,  # the format of a sparse matrix is a property
    "utils/metaestimators.py::_BaseComposition._get_params": OWN,
    "utils/metaestimators.py::_BaseComposition._set_params": OWN,
    "utils/metaestimators.py::_BaseComposition._replace_estimator": OWN,
    "utils/validation.py::_check_large_sparse": OWN,
    "utils/validation.py::check_symmetric": OWN,  # "to" and the format of a sparse matrix
    "utils/validation.py::_estimator_has.check": CONSTANT,
    "utils/validation.py::_check_response_method": CHECKED,  # by its callers
}

LOOKUPS = frozenset(
    [
        "getattr",
        "attrgetter",
        "methodcaller",
        "format",
        "format_map",
        "Formatter",
        "Template",
        "import_module",
        "__import__",
        "eval",
        "exec",
        "open",
        "check_memory",
        "Memory",
        "_check_response_method",
        "_get_response_values",
        "_get_response_values_binary",
    ]
)
NOT_READ = re.compile(  # tests, downloads, plots, pages, building, tools
    r"(^|/)(tests|_build_utils|datasets|externals|inspection|_plot|callback|experimental|_repr_html)/"
    r"|estimator_checks|_testing|conftest|_show_versions|_array_api|_export|discovery|_pprint"
)


def lookups(source: str) -> set[str]:
    """The functions in a module that look up what is named by a value."""
    found = set()
    waiting: list[tuple[ast.AST, tuple[str, ...]]] = [(ast.parse(source), ())]
    while waiting:
        node, where = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            where = (*where, node.name)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            name = node.args[1 if called == "getattr" else 0] if node.args else None
            if called == "format":  # a text is followed from attribute to attribute by its own `format`
                name = node.func.value if isinstance(node.func, ast.Attribute) else None
            if called in LOOKUPS and not (
                called in ("getattr", "attrgetter", "format") and isinstance(name, ast.Constant)
            ):
                found.add(".".join(where))
        waiting.extend((child, where) for child in ast.iter_child_nodes(node))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sklearn.__version__.startswith(READ), reason=f"scikit-learn {READ} was read")
def test_every_lookup_in_scikit_learn_was_reviewed() -> None:
    root = Path(sklearn.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        name, source = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        if not NOT_READ.search(name) and any(lookup in source for lookup in LOOKUPS):
            found |= {f"{name}::{function}" for function in lookups(source)}

    assert found == REVIEWED.keys()
