"""Pickles run code: they are loaded on request only, and only the file that was meant."""

from __future__ import annotations

import hashlib
import os
import pickle
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pytest

from eventml.errors import ModelError, ModelTamperedError, UntrustedModelError
from eventml.models import Artefact, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sklearn.linear_model import LinearRegression


def plain(model: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(model))


def compressed(model: Any, path: Path) -> None:
    joblib.dump(model, path, compress=3)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize(
    ("name", "dump"),
    [
        ("model.pkl", plain),
        ("model.pickle", plain),
        ("model.joblib", joblib.dump),
        ("model.pkl", joblib.dump),
        ("model.joblib", compressed),
    ],
)
def test_a_pickle_loads_with_both_keys(
    name: str, dump: Callable[[Any, Path], object], tmp_path: Path, line: LinearRegression
) -> None:
    path = tmp_path / name
    dump(line, path)

    model = load(Artefact(path, pickle=True, sha256=digest(path)), name="x")

    np.testing.assert_allclose(model.object.predict([[4.0]]), [8.0])
    assert (model.name, model.version) == ("model", digest(path)[:12])


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib", ".PKL"])
@pytest.mark.parametrize("pickled", [True, False])
def test_either_key_alone_is_refused_and_nothing_runs(suffix: str, pickled: bool, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    plain(Attack(f"touch {tmp_path}/CANARY"), path)
    artefact = Artefact(path, pickle=True) if pickled else Artefact(path, sha256=digest(path))

    with pytest.raises(UntrustedModelError) as caught:
        load(artefact, name="x")

    assert f"Artefact('{path}', pickle=True, sha256=" in str(caught.value)
    assert not (tmp_path / "CANARY").exists()


def test_another_file_in_its_place_is_refused_and_nothing_runs(
    tmp_path: Path, line: LinearRegression
) -> None:
    path = tmp_path / "model.pkl"
    plain(line, path)
    artefact = Artefact(path, pickle=True, sha256=digest(path))
    plain(Attack(f"touch {tmp_path}/CANARY"), path)

    with pytest.raises(ModelTamperedError):
        load(artefact, name="x")

    assert not (tmp_path / "CANARY").exists()


def test_a_broken_pickle_is_a_model_error(tmp_path: Path, line: LinearRegression) -> None:
    path = tmp_path / "model.pkl"
    plain(line, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(Artefact(path, pickle=True, sha256=digest(path)), name="x")


def test_a_pickle_of_what_is_not_installed_names_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"cno_such_library\nModel\n.")
    with pytest.raises(ModelError, match="no_such_library"):
        load(Artefact(path, pickle=True, sha256=digest(path)), name="x")
