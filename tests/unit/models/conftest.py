"""Fixtures of the model tests: saving a model, and changing a saved file."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LinearRegression

from eventml.models import load, single_threaded

Schema = dict[str, Any]

SLOW = (  # test files and tests that take seconds of processor time: `make quick` leaves them out
    "test_skops_estimators.py",
    "test_the_version_is_the_same_in_every_process",
    "test_every_thread_that_asks_is_limited",
    "test_a_pipeline_of_columns_gives_the_same_bits_in_blocks",
    "test_a_pipeline_that_stays_sparse_gives_them_as_it_is",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests of this folder."""
    for item in items:
        if item.path.parent == Path(__file__).parent and any(name in item.nodeid for name in SLOW):
            item.add_marker("slow")


Save = Callable[..., Path]
Forge = Callable[[Any, Callable[[Schema], object]], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a model with skops, and return the path."""

    def to_file(model: Any, name: str = "model.skops") -> Path:
        path = tmp_path / name
        skops.io.dump(model, path)
        return path

    return to_file


@pytest.fixture
def forge(save: Save) -> Forge:
    """Save a model, then change the file's schema as an attacker would."""

    def to_file(model: Any, change: Callable[[Schema], object]) -> Path:
        path = save(model)
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        schema = json.loads(entries["schema.json"])
        change(schema)
        entries["schema.json"] = json.dumps(schema).encode()
        forged = io.BytesIO()
        with zipfile.ZipFile(forged, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        path.write_bytes(forged.getvalue())
        return path

    return to_file


@pytest.fixture
def line() -> LinearRegression:
    """A fitted model: y = 2x."""
    return LinearRegression().fit(np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 2.0, 4.0]))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """One thread, as in a worker: four OpenMP threads block boosting when the machine is busy."""
    single_threaded()


@pytest.fixture
def assert_survives(save: Save) -> Callable[[Any, Any], Any]:
    """Save a fitted estimator, load it without `trusted`, and compare the outputs of both."""

    def round_trip(estimator: Any, inputs: Any) -> Any:
        loaded = load(save(estimator), name="x").object
        before, after = answers(estimator, inputs), answers(loaded, inputs)
        assert before.keys() == after.keys()
        for method in before:
            compare(before[method], after[method], method)
        return loaded

    return round_trip


def answers(estimator: Any, inputs: Any) -> dict[str, Any]:
    """The outputs of a fitted estimator, by method."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            method: getattr(estimator, method)(inputs)
            for method in ("predict", "predict_proba", "transform", "score_samples")
            if hasattr(estimator, method)
        }


def compare(before: Any, after: Any, method: str) -> None:
    if hasattr(before, "toarray"):
        before, after = before.toarray(), after.toarray()
    if np.asarray(before).dtype.kind == "f":
        # Sums may be computed in another order, because the memory layout differs.
        np.testing.assert_allclose(before, after, rtol=1e-10, err_msg=method)
    else:
        np.testing.assert_array_equal(before, after, err_msg=method)
