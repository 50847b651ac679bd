"""Estimators that store functions, method names and parts which scikit-learn would not have put there."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import StackingRegressor, VotingRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectFromModel, chi2
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import fbeta_score, make_scorer, r2_score
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.multioutput import ClassifierChain
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from eventml.errors import ModelError, UntrustedModelError
from eventml.models import Artefact, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X = np.random.default_rng(0).random((30, 3))
AMOUNT = X.sum(axis=1)
KIND = (AMOUNT.mean() < AMOUNT).astype(int)


def stacked(part: Any, method: Any) -> StackingRegressor:
    model = StackingRegressor([("line", Ridge())], final_estimator=DummyRegressor()).fit(X, AMOUNT)
    model.estimators_ = [part]
    model.stack_method_ = [method]
    return model


def writes(path: Path, payload: bytes) -> Pipeline:
    """The attack that was found: it writes the payload to the path when it predicts."""
    return Pipeline(
        [
            (
                "path",
                FunctionTransformer(
                    np.sum, kw_args={"dtype": "object", "initial": str(path), "where": False}
                ),
            ),
            ("write", stacked(np.array([payload]), "tofile")),
        ]
    )


def test_the_attack_works_on_scikit_learn(tmp_path: Path) -> None:
    """So the next test can fail."""
    with pytest.raises(Exception):  # noqa: B017, PT011 - what happens after the file is written
        writes(tmp_path / "uvloop.py", b"payload").predict(X)
    assert (tmp_path / "uvloop.py").read_bytes() == b"payload"


@pytest.mark.parametrize("trusted", [(), ("numpy.sum",)])
def test_a_file_that_would_write_a_file_is_refused(
    trusted: tuple[str, ...], tmp_path: Path, save: Callable[..., Path]
) -> None:
    path = save(writes(tmp_path / "uvloop.py", b"payload"))

    with pytest.raises(ModelError, match=r"names another method|no estimator|numpy\.sum"):
        load(Artefact(path, trusted=trusted), name="x").object.predict(X)

    assert not (tmp_path / "uvloop.py").exists()


def changed(model: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def line() -> LinearRegression:
    return LinearRegression().fit(X, AMOUNT)


def chain() -> ClassifierChain:
    return ClassifierChain(LogisticRegression(), chain_method="predict").fit(X, np.column_stack([KIND, KIND]))


def threshold() -> FixedThresholdClassifier:
    return FixedThresholdClassifier(LogisticRegression()).fit(X, KIND)


def search() -> GridSearchCV:
    return GridSearchCV(Ridge(), {"alpha": [1.0]}, scoring="r2", cv=2).fit(X, AMOUNT)


def importance(path: str) -> SelectFromModel:
    return changed(SelectFromModel(line(), prefit=True).fit(X), importance_getter=path)


def columns(names: str) -> ColumnTransformer:
    return ColumnTransformer([("all", StandardScaler(), [0, 1])], verbose_feature_names_out=names).fit(X)


@pytest.mark.parametrize(
    "path", ["auto", "coef_", "regressor_.coef_", "named_steps.line.feature_importances_"]
)
def test_the_path_of_an_importance_is_kept(path: str, save: Callable[..., Path]) -> None:
    assert load(save(importance(path)), name="x").object.importance_getter == path


@pytest.mark.parametrize("names", ["{transformer_name}__{feature_name}", "{{{feature_name}}}", "column"])
def test_a_pattern_of_names_is_kept(names: str, save: Callable[..., Path]) -> None:
    assert load(save(columns(names)), name="x").object.verbose_feature_names_out == names


FORGED: dict[str, tuple[Callable[[], Any], str]] = {
    "a stacked method of another name": (
        lambda: stacked(Ridge().fit(X, AMOUNT), "set_params"),
        "names another method",
    ),
    "a stacked array": (lambda: stacked(np.array([1]), "predict"), "no estimator"),
    "a chain's method": (lambda: changed(chain(), chain_method_="fit"), "names another method"),
    "a chain's methods": (lambda: changed(chain(), chain_method_=["predict", "fit"]), "names another method"),
    "a chain's parts": (lambda: changed(chain(), estimators_=[{"predict": 1}]), "no estimator"),
    "a threshold's method": (lambda: changed(threshold(), response_method="fit"), "names another method"),
    "a threshold's estimator": (lambda: changed(threshold(), estimator_=np.array([1])), "no estimator"),
    "a vote's part": (
        lambda: changed(VotingRegressor([("a", Ridge())]).fit(X, AMOUNT), estimators_=[np.array([1])]),
        "no estimator",
    ),
    "a step": (lambda: changed(make_pipeline(line()), steps=[("a", np.array([1]))]), "no estimator"),
    "a scorer's method": (
        lambda: changed(search(), scorer_=changed(make_scorer(r2_score), _response_method="fit")),
        "names another method",
    ),
    "a scorer's arguments": (
        lambda: changed(search(), scorer_=make_scorer(r2_score, sample_weight=AMOUNT)),
        "arguments for a function",
    ),
    **{
        f"importance at {path}": (partial(importance, path), "importance_getter leads to another attribute")
        for path in (
            "predict.__func__",
            "coef_.ctypes._ctypes.coef_",
            "_private.coef_",
            "coef_.data",
            "coef_\n",
        )
    },
    **{
        f"names as {text}": (partial(columns, text), "verbose_feature_names_out has other fields")
        for text in (
            "{feature_name.fit.__globals__}",
            "{feature_name[0]}",
            "{feature_name!r}",
            "{feature_name:9999999999}",
            "{feature_name:{transformer_name}}",
            "{0}",
            "{",
        )
    },
    "objects for names": (
        lambda: changed(line(), feature_names_in_=np.array([line(), "b", "c"], dtype=object)),
        "feature_names_in_ are not texts",
    ),
    "an object for a step's name": (
        lambda: changed(make_pipeline(line()), steps=[(line(), line())]),
        "steps have names that are not texts",
    ),
    "arguments of a ufunc": (
        lambda: FunctionTransformer(np.log1p, kw_args={"where": False}),
        "kw_args are arguments",
    ),
    "arguments of the inverse": (
        lambda: FunctionTransformer(np.log1p, inverse_func=np.expm1, inv_kw_args={"where": False}),
        "inv_kw_args are arguments",
    ),
    "a ufunc of two arguments": (lambda: FunctionTransformer(np.add), "func is the function numpy.add"),
    "a metric in a transformer": (lambda: FunctionTransformer(r2_score), "func is the function .*r2_score"),
    "a reduction in a transformer": (lambda: FunctionTransformer(np.mean), "func is the function numpy.mean"),
    "a metric as a kernel": (
        lambda: changed(KNeighborsRegressor().fit(X, AMOUNT), weights=r2_score),
        "weights is the function .*r2_score",
    ),
    "a function in a dictionary": (
        lambda: changed(line(), extra_={"a": [np.log1p]}),
        "holds the function numpy.log1p",
    ),
    "a function in an array": (
        lambda: changed(line(), extra=np.array([np.log1p, None], dtype=object)),
        "holds the function numpy.log1p",
    ),
    "a function behind a mask": (
        lambda: changed(
            search(), cv_results_={"a": np.ma.MaskedArray([np.log1p, None], [True, True], dtype=object)}
        ),
        "holds the function numpy.log1p",
    ),
    "a type that is called with an event": (
        lambda: DictVectorizer(dtype=list).fit([{"a": 1}]),
        "function builtins.list",
    ),
    "a method hidden in a part": (
        lambda: changed(threshold(), _curve_scorer=changed(make_scorer(r2_score), _score="text")),
        "hides the method _score",
    ),
    "bytes for numbers": (lambda: changed(line(), coef_=np.array([b"text"])), "array of bytes"),
    "objects for numbers": (
        lambda: changed(line(), coef_=np.array(["a", None], dtype=object)),
        "coef_ is an array of objects",
    ),
    "an object as memory": (lambda: Pipeline([("line", line())], memory=line()), "memory is no folder"),
    **{
        f"{kind.__name__} of a file": (
            partial(kind, input="filename"),
            "reads files that an event names",
        )
        for kind in (CountVectorizer, TfidfVectorizer, HashingVectorizer)
    },
    "text read from an object": (lambda: CountVectorizer(input="file"), "reads files that an event names"),
}


@pytest.mark.parametrize("case", FORGED)
def test_what_scikit_learn_would_not_store_is_refused_by_its_fault(
    case: str, save: Callable[..., Path]
) -> None:
    make, fault = FORGED[case]
    with pytest.raises(ModelError, match=f"malicious: .*{fault}"):
        load(save(make()), name="x")


def test_a_function_that_is_trusted_by_name_may_have_arguments(save: Callable[..., Path]) -> None:
    path = save(make_pipeline(FunctionTransformer(np.clip, kw_args={"a_min": 0.0, "a_max": 0.5}), line()))
    with pytest.raises(UntrustedModelError, match=r"numpy\.clip"):
        load(path, name="x")

    loaded = load(Artefact(path, trusted=("numpy.clip",)), name="x").object

    assert loaded[0].transform([[2.0]]) == [[0.5]]


@pytest.mark.parametrize(("function", "name"), [(np.mean, "numpy.mean"), (np.add, "numpy.add")])
def test_a_listed_function_in_another_place_can_be_trusted_too(
    function: Any, name: str, save: Callable[..., Path]
) -> None:
    path = save(FunctionTransformer(function))
    with pytest.raises(ModelError, match=f"{name}, which is not trusted by name"):
        load(path, name="x")

    assert load(Artefact(path, trusted=(name,)), name="x").object.func is function


class OwnTransformer(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A transformer of the user's, with an attribute that means something else in scikit-learn."""

    def __init__(self) -> None:
        self.function = np.log1p
        self.input = np.zeros(2)


def test_an_object_of_a_type_that_is_trusted_by_name_is_not_checked(save: Callable[..., Path]) -> None:
    path = save(make_pipeline(OwnTransformer()))
    name = f"{OwnTransformer.__module__}.OwnTransformer"
    assert load(Artefact(path, trusted=(name,)), name="x").object[0].function is np.log1p


def test_settings_of_a_metric_are_kept(save: Callable[..., Path]) -> None:
    scorer = make_scorer(fbeta_score, beta=2, labels=[0, 1], average="macro")
    model = GridSearchCV(LogisticRegression(), {"C": [1.0]}, scoring=scorer, cv=2).fit(X, KIND)

    loaded = load(save(model), name="x").object

    assert loaded.score(X, KIND) == model.score(X, KIND)


def test_a_pipeline_with_a_memory_loads(save: Callable[..., Path], tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    model = Pipeline([("scale", StandardScaler()), ("line", Ridge())], memory=cache)
    path = save(changed(model.fit(X, AMOUNT), memory=cache))
    shutil.rmtree(cache)

    loaded = load(path, name="x").object

    np.testing.assert_allclose(loaded.predict(X), model.predict(X))
    assert not (tmp_path / "cache").exists()  # only `fit` uses it


def test_a_score_belongs_to_a_selector(save: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"func is the function .*chi2"):
        load(save(FunctionTransformer(chi2)), name="x")
