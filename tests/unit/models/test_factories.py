"""Models that a function makes, and the versions they are given."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from eventml.errors import ConfigError, ModelError
from eventml.models import Artefact, Model, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sklearn.linear_model import LinearRegression

# A model of everything whose pickle differs from process to process: hashed sets, dictionaries in
# another order, texts that are one object or two, and what scikit-learn has grown.
MAKE = """
import random, sys
import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from eventml.models import load

one, other = "taxi", "".join(["ta", "xi"])
X = np.random.RandomState(0).random_sample((200, 4))
y = X.sum(axis=1)
rows = [{"pair": f"{i % 3}", "distance": float(i)} for i in range(200)]
JOBS = int(sys.argv[1])
words = [f"word{i}" for i in range(100)]
random.shuffle(words)
KINDS = {
    "forest": lambda: RandomForestRegressor(5, random_state=0, n_jobs=JOBS).fit(X, y),
    "boosting": lambda: HistGradientBoostingRegressor(max_iter=5, random_state=0).fit(X, y),
    "pipeline": lambda: make_pipeline(DictVectorizer(), KNeighborsRegressor()).fit(rows, y),
    "words": lambda: {"stop": set(words), "same": [one, (one, other)[JOBS - 1]]},
    "numbers": lambda: {word: len(word) for word in words},
}
for kind, make in KINDS.items():
    print(kind, load(make, name="x").version)
"""


def test_the_version_is_the_same_in_every_process() -> None:
    said = []
    for seed, jobs in (("1", "1"), ("2", "2")):
        done = subprocess.run(  # noqa: S603 - this Python, and the text above
            [sys.executable, "-c", MAKE, jobs],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert done.returncode == 0, done.stderr
        said.append(dict(line.split() for line in done.stdout.splitlines()))
    assert said[0] == said[1]
    assert len(set(said[0].values())) == 5
    assert {len(version) for version in said[0].values()} == {12}


def test_the_version_follows_the_content(line: LinearRegression) -> None:
    before = load(lambda: line, name="x").version
    line.intercept_ = 1.0
    assert load(lambda: line, name="x").version != before


def test_any_object_becomes_a_model_with_the_given_name() -> None:
    model = load(dict, name="lookup")
    assert (model.object, model.name) == ({}, "lookup")


def test_what_cannot_be_pickled_says_that_it_has_no_version() -> None:
    model = load(lambda: threading.Lock(), name="x")  # noqa: PLW0108 - a lambda is what users write
    assert model.version == "unversioned"


def test_a_model_is_kept_as_it_is(line: LinearRegression) -> None:
    made = Model(line.set_params(n_jobs=3), "tip", "7")
    assert load(lambda: made, name="ignored") is made
    assert line.n_jobs == 3


def test_an_artefact_or_a_path_is_loaded(save: Callable[..., Path], line: LinearRegression) -> None:
    """For a function that trains and saves if nobody has yet."""
    path = save(line, "tip.skops")
    assert load(lambda: path, name="x").name == "tip"
    assert load(lambda: Artefact(path, version="7"), name="x").version == "7"


def test_a_function_that_fails_is_a_model_error_with_its_cause() -> None:
    def broken() -> Any:
        raise KeyError("no such bucket")

    with pytest.raises(ModelError, match=r"model 'tip': .*broken failed: KeyError") as caught:
        load(broken, name="tip")
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_of_ours_passes_unchanged() -> None:
    def broken() -> Any:
        raise ConfigError("models.tip: unknown")

    with pytest.raises(ConfigError, match=r"^models.tip: unknown$"):
        load(broken, name="tip")


def test_nothing_and_an_async_function_are_refused() -> None:
    async def late() -> Any: ...

    with pytest.raises(ModelError, match="returned None"):
        load(lambda: None, name="tip")
    with pytest.raises(ModelError, match="is async"):
        load(late, name="tip")
