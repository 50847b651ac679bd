"""A model saved with another scikit-learn: scikit-learn's warning reaches the caller, or is an error."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import sklearn
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eventml.errors import ModelError
from eventml.models import Artefact, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD = "1.2.3"


@pytest.fixture
def forest() -> Any:
    model = make_pipeline(StandardScaler(), RandomForestRegressor(5))
    return model.fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])


@pytest.fixture
def saved_long_ago(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Save with scikit-learn saying that it is an older version."""

    def call(save: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr("sklearn.base.__version__", OLD)
            return save()

    return call


def test_a_skops_file_warns(
    forest: Any, save: Callable[..., Path], saved_long_ago: Callable[..., Any]
) -> None:
    path = saved_long_ago(lambda: save(forest))
    with pytest.warns(InconsistentVersionWarning, match=f"{OLD}.*{sklearn.__version__}"):
        model = load(path, name="x")
    assert model.object.predict([[0.0]]).shape == (1,)


def test_a_pickle_warns_alike(forest: Any, tmp_path: Path, saved_long_ago: Callable[..., Any]) -> None:
    data = saved_long_ago(lambda: pickle.dumps(forest))
    path = tmp_path / "model.pkl"
    path.write_bytes(data)
    with pytest.warns(InconsistentVersionWarning, match=OLD):
        load(Artefact(path, pickle=True, sha256=hashlib.sha256(data).hexdigest()), name="x")


def test_the_same_version_is_silent(forest: Any, save: Callable[..., Path]) -> None:
    path = save(forest)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path, name="x")


def test_the_warning_can_be_made_an_error(
    forest: Any, save: Callable[..., Path], saved_long_ago: Callable[..., Any]
) -> None:
    path = saved_long_ago(lambda: save(forest))
    with warnings.catch_warnings():
        warnings.simplefilter("error", InconsistentVersionWarning)
        with pytest.raises(ModelError, match=f"{path.name} cannot be loaded: InconsistentVersionWarning"):
            load(path, name="x")


def test_a_failure_says_that_the_version_may_be_why(
    forest: Any, forge: Callable[..., Path], saved_long_ago: Callable[..., Any]
) -> None:
    def break_the_scaler(schema: dict[str, Any]) -> None:
        steps = schema["content"]["content"]["steps"]["content"]
        steps[0]["content"][1]["__class__"] = "MinMaxScaler"  # in another module
        steps[0]["content"][1]["__module__"] = "sklearn.linear_model._base"
        steps[0]["content"][1]["__class__"] = "LinearModel"

    path = saved_long_ago(lambda: forge(forest, break_the_scaler))
    with pytest.raises(ModelError, match=OLD):
        load(Artefact(path, trusted=("sklearn.linear_model._base.LinearModel",)), name="x")


@pytest.mark.parametrize("said", ["1.0\x1b[31m", "1.0\nERROR all is lost", "1" * 41, ["\x1b[31m"]])
def test_what_is_no_version_never_reaches_a_terminal(
    said: Any, forest: Any, forge: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    def change(schema: dict[str, Any]) -> None:
        version = schema["content"]["content"]["_sklearn_version"]
        version["content"] = json.dumps(said)
        version.pop("__id__", None)  # the pipeline's parts share it

    with pytest.raises(ModelError, match="not a version") as caught:
        load(forge(forest, change), name="x")
    assert str(caught.value).isprintable()
    assert capfd.readouterr().err == ""
