"""Files: where they are, whether they are whole and the right ones, and what they are called."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventml.errors import ModelError, ModelNotFoundError, ModelTamperedError
from eventml.models import Artefact, Model, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from sklearn.linear_model import LinearRegression


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", [str, Path, Artefact])
def test_a_path_becomes_a_model_named_after_the_file(
    kind: Callable[[Any], Any], save: Callable[..., Path], line: LinearRegression
) -> None:
    path = save(line, "duration.skops")

    model = load(kind(path), name="ignored")

    assert model.object.predict([[4.0]]) == pytest.approx([8.0])
    assert model.name == "duration"
    assert model.version == digest(path)[:12]


def test_name_and_version_can_be_given(save: Callable[..., Path], line: LinearRegression) -> None:
    model = load(Artefact(save(line), name="tip", version="2024-03"), name="ignored")
    assert (model.name, model.version) == ("tip", "2024-03")


def test_a_loaded_model_is_kept_as_it_is() -> None:
    model = Model(object(), "tip", "1")
    assert load(model, name="ignored") is model


def test_the_version_follows_the_content_and_not_the_path(
    save: Callable[..., Path], line: LinearRegression, tmp_path: Path
) -> None:
    path = save(line)
    copy = shutil.copy(path, tmp_path / "copy.skops")
    line.intercept_ = 1.0
    other = save(line, "other.skops")

    assert load(copy, name="x").version == load(path, name="x").version
    assert load(other, name="x").version != load(path, name="x").version


@pytest.mark.parametrize("suffix", [".skops", ".joblib", ".pkl", ".onnx"])
def test_a_missing_file_is_named_with_where_it_was_looked_for(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError) as caught:
        load(f"models/duration{suffix}", name="x")
    assert f"models/duration{suffix}" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.skops").mkdir()
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path / "model.skops", name="x")


@pytest.mark.parametrize("name", ["model.h5", "model"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ModelError, match=r"format= names one of cbm, joblib, .*, skops, "):
        load(name, name="x")


def test_the_right_sha256_loads_in_either_case(save: Callable[..., Path], line: LinearRegression) -> None:
    path = save(line)
    assert load(Artefact(path, sha256=digest(path)), name="x").version == digest(path)[:12]
    assert load(Artefact(path, sha256=digest(path).upper()), name="x").version == digest(path)[:12]


@pytest.mark.parametrize("suffix", [".skops", ".joblib", ".pkl", ".onnx"])
def test_another_sha256_is_refused_whatever_the_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"not what was expected")

    with pytest.raises(ModelTamperedError) as caught:
        load(Artefact(path, sha256="0" * 64, pickle=True), name="x")

    assert str(path) in str(caught.value)
    assert digest(path) in str(caught.value)


def test_the_file_is_read_once(
    save: Callable[..., Path], line: LinearRegression, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was hashed is what is loaded, even if the file is replaced in between."""
    path = save(line)
    expected = digest(path)
    reads = []
    real = os.open

    def once(name: str, *more: int) -> int:
        descriptor = real(name, *more)
        if Path(name) == path:
            reads.append(path)
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", once)
    model = load(Artefact(path, sha256=expected), name="x")

    assert model.version == expected[:12]
    assert reads == [path]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(kept=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_a_model_error(
    kept: float, save: Callable[..., Path], line: LinearRegression
) -> None:
    path = save(line)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ModelError, match="not a complete skops file"):
        load(path, name="x")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255))
def test_a_damaged_file_loads_or_is_a_model_error(
    at: float, byte: int, save: Callable[..., Path], line: LinearRegression
) -> None:
    """Never another exception. Damage to what is not read, such as a date, goes unseen without a sha256."""
    path = save(line)
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= byte
    path.write_bytes(data)
    try:
        model = load(path, name="x")
    except ModelError:
        return
    assert model.object.predict([[4.0]]) == pytest.approx([8.0])


def test_what_is_no_source_is_refused_with_what_to_do(line: LinearRegression) -> None:
    wrong: Any = line
    with pytest.raises(ModelError, match=r"not LinearRegression.*model=lambda: the_object"):
        load(wrong, name="tip")
