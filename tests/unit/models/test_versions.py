"""A model saved with another scikit-learn warns, once, naming both."""

from __future__ import annotations

import hashlib
import pickle
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import sklearn
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eventml.errors import ModelError
from eventml.models import Artefact, ModelVersionWarning, load

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


def test_a_skops_file_warns_once_for_all_its_estimators(
    forest: Any, save: Callable[..., Path], saved_long_ago: Callable[..., Any]
) -> None:
    path = saved_long_ago(lambda: save(forest))

    with pytest.warns(ModelVersionWarning) as caught:
        model = load(path, name="x")

    (warning,) = caught
    assert OLD in str(warning.message)
    assert sklearn.__version__ in str(warning.message)
    assert str(path) in str(warning.message)
    assert model.object.predict([[0.0]]).shape == (1,)


def test_a_pickle_warns_alike(forest: Any, tmp_path: Path, saved_long_ago: Callable[..., Any]) -> None:
    data = saved_long_ago(lambda: pickle.dumps(forest))
    path = tmp_path / "model.pkl"
    path.write_bytes(data)

    with pytest.warns(ModelVersionWarning, match=OLD) as caught:
        load(Artefact(path, pickle=True, sha256=hashlib.sha256(data).hexdigest()), name="x")
    assert len(caught) == 1


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
        warnings.simplefilter("error", ModelVersionWarning)
        with pytest.raises(ModelVersionWarning):
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


def test_other_warnings_reach_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    data = pickle.dumps(Noisy())
    path.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="so it goes"):
        load(Artefact(path, pickle=True, sha256=hashlib.sha256(data).hexdigest()), name="x")


class Noisy:
    """Warns when it is loaded."""

    def __reduce__(self) -> Any:
        return warn, ()


def warn() -> None:
    warnings.warn("so it goes", RuntimeWarning, stacklevel=1)


def test_models_loaded_at_once_warn_each_for_itself(
    forest: Any, save: Callable[..., Path], saved_long_ago: Callable[..., Any]
) -> None:
    paths = saved_long_ago(lambda: [save(forest, f"model{i}.skops") for i in range(8)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=load, args=(path,), kwargs={"name": "x"}) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    warned = [str(one.message) for one in caught if one.category is ModelVersionWarning]
    assert len(warned) == 8
    assert all(any(str(path) in one for one in warned) for path in paths)
    assert len(caught) == 8
