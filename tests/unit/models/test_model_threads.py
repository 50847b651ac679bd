"""A model is kept to one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingRegressor, RandomForestRegressor, StackingRegressor, VotingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline

from eventml.models import Artefact, load
from eventml.models.object_graph import reachable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X = [[float(i)] for i in range(20)]
Y = [float(i) for i in range(20)]

MODELS: dict[str, Any] = {
    "one": RandomForestRegressor(3),
    "in a pipeline": make_pipeline(ColumnTransformer([("x", "passthrough", [0])]), KNeighborsRegressor()),
    "fitted parts": StackingRegressor(
        [("forest", RandomForestRegressor(3)), ("near", KNeighborsRegressor())],
        final_estimator=LinearRegression(),
    ),
    "voters": VotingRegressor([("near", KNeighborsRegressor())]),
    "bags": BaggingRegressor(KNeighborsRegressor(), n_estimators=2),
    "the best found": GridSearchCV(RandomForestRegressor(2), {"max_depth": [1, 2]}, cv=2),
}


def with_jobs(model: Any) -> list[Any]:
    """Every part that has `n_jobs`, found without eventml's own selection of estimators."""
    return [one for one in reachable(model) if "n_jobs" in getattr(one, "__dict__", {})]


@pytest.mark.parametrize("case", MODELS)
def test_no_estimator_keeps_its_jobs_however_deep_it_sits(case: str, save: Callable[..., Path]) -> None:
    model = MODELS[case].fit(X, Y)
    expected = model.predict(X).tolist()
    for one in with_jobs(model):
        one.n_jobs = 2  # after fitting, which would start processes

    loaded = load(save(model), name="x").object

    assert len(with_jobs(loaded)) == len(with_jobs(model))
    assert {one.n_jobs for one in with_jobs(loaded)} == {None}
    assert loaded.predict(X).tolist() == pytest.approx(expected)


def test_they_are_kept_on_request(save: Callable[..., Path]) -> None:
    path = save(RandomForestRegressor(2, n_jobs=2).fit(X, Y))
    assert load(Artefact(path, keep_threads=True), name="x").object.n_jobs == 2


def test_a_factory_s_model_is_kept_to_one_too() -> None:
    class Wrapped:
        def __init__(self) -> None:
            self.inner = {"forest": RandomForestRegressor(2, n_jobs=2).fit(X, Y)}

    assert load(Wrapped, name="x").object.inner["forest"].n_jobs is None


# In a process of its own: limits are for good.
LIMITED = """
import threading
import sklearn.ensemble, threadpoolctl
from eventml.models import single_threaded

def limits(kind):
    return {one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == kind}

def predict():
    single_threaded()
    single_threaded()
    seen.append((limits("openmp"), limits("blas")))

assert limits("openmp") == {3}, limits("openmp")
seen = []
for _ in range(2):
    thread = threading.Thread(target=predict)
    thread.start()
    thread.join()
assert seen == [({1}, {1}), ({1}, {1})], seen
assert limits("openmp") == {3}, limits("openmp")  # OpenMP counts by thread
print("ok")
"""


def test_every_thread_that_asks_is_limited() -> None:
    pytest.importorskip("threadpoolctl")
    done = subprocess.run(  # noqa: S603 - this Python, and the text above
        [sys.executable, "-c", LIMITED],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"},
    )
    assert done.stdout.strip() == "ok", done.stderr
