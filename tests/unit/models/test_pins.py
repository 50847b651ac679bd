"""The file with a model's sha256 beside it, and models that settings put in the place of the code's."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventml.errors import ModelError, ModelTamperedError, UntrustedModelError
from eventml.models import Artefact, Model, load, replacement

if TYPE_CHECKING:
    from sklearn.linear_model import LinearRegression

Save = Callable[..., Path]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pin(path: Path, text: str = "{}  {}\n", *, sha256: str = "") -> None:
    beside = path.with_name(path.name + ".sha256")
    beside.write_text(text.format(sha256 or digest(path), path.name))


@pytest.mark.parametrize(
    "text", ["{}  {}\n", "{} *{}\n", "{}", "{}\n", "{}\r\n", "\\{}  a\\nb.skops\n"], ids=repr
)
def test_the_file_beside_a_model_is_its_pin_as_sha256sum_writes_it(
    text: str, save: Save, line: LinearRegression
) -> None:
    path = save(line)
    pin(path, text)
    assert load(path, name="x").version == digest(path)[:12]
    pin(path, text, sha256=digest(path).upper())
    assert load(str(path), name="x").version == digest(path)[:12]
    pin(path, text, sha256="0" * 64)
    with pytest.raises(ModelTamperedError, match=r"not 0{64}.*change .*model\.skops\.sha256$"):
        load(path, name="x")


def test_a_model_that_is_swapped_later_is_refused(save: Save, line: LinearRegression) -> None:
    path = save(line)
    pin(path)
    load(path, name="x")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ModelTamperedError):
        load(path, name="x")


def test_both_pins_are_checked(save: Save, line: LinearRegression) -> None:
    path = save(line)
    pin(path, sha256="0" * 64)
    with pytest.raises(ModelTamperedError, match=r"change .*\.sha256$"):
        load(Artefact(path, sha256=digest(path)), name="x")
    pin(path)
    with pytest.raises(ModelTamperedError, match="model_sha256"):
        load(Artefact(path, sha256="0" * 64), name="x")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"e3b0  m.skops\n",
        b"0" * 65,
        b"0" * 64 + b"  a\n" + b"1" * 64 + b"  b\n",
        b"\xff\xfe0\x000\x00",
    ],
)
def test_a_damaged_pin_refuses_the_model(content: bytes, save: Save, line: LinearRegression) -> None:
    path = save(line)
    path.with_name("model.skops.sha256").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.skops\.sha256: expected one line, as sha256sum writes it"):
        load(path, name="x")


def test_a_folder_in_the_place_of_the_pin_refuses_the_model(save: Save, line: LinearRegression) -> None:
    path = save(line)
    path.with_name("model.skops.sha256").mkdir()
    with pytest.raises(ModelError, match=r"model\.skops\.sha256 cannot be read"):
        load(path, name="x")


def test_the_pin_beside_a_pickle_permits_it_only_if_the_code_does(
    tmp_path: Path, line: LinearRegression
) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(pickle.dumps(line))
    code = Artefact(path, pickle=True)
    with pytest.raises(UntrustedModelError, match="is a pickle"):
        load(code, name="x")
    pin(path)
    assert load(code, name="x").version == digest(path)[:12]
    for source in (path, Artefact(path), replacement(code, str(path)), replacement(None, str(path))):
        with pytest.raises(UntrustedModelError, match="is a pickle"):
            load(source, name="x")
    pin(path, sha256="0" * 64)
    with pytest.raises(ModelTamperedError):
        load(code, name="x")


class TestReplacement:
    """A model file that a setting puts in the place of the code's model."""

    @pytest.fixture(params=["artefact", "file with a pin beside it", "function", "model"])
    def pinned(self, request: pytest.FixtureRequest, save: Save, line: LinearRegression) -> Any:
        """A source whose model the code decides."""
        path = save(line, "pinned.skops")
        if request.param == "file with a pin beside it":
            pin(path)
        return {
            "artefact": Artefact(path, sha256=digest(path)),
            "file with a pin beside it": str(path),
            "function": lambda: Artefact(path, sha256=digest(path)),
            "model": Model(line, "line", "v1"),
        }[request.param]

    def test_needs_a_pin_of_its_own(self, pinned: Any, save: Save, line: LinearRegression) -> None:
        path = save(line, "other.skops")
        with pytest.raises(ModelError, match=r"replaces a model.*model_sha256.*other\.skops\.sha256"):
            load(replacement(pinned, str(path)), name="x")

    def test_may_have_it_beside_it(self, pinned: Any, save: Save, line: LinearRegression) -> None:
        path = save(line, "other.skops")
        pin(path)
        assert load(replacement(pinned, str(path)), name="x").version == digest(path)[:12]
        pin(path, sha256="0" * 64)
        with pytest.raises(ModelTamperedError):
            load(replacement(pinned, str(path)), name="x")

    def test_may_have_it_in_the_setting(self, pinned: Any, save: Save, line: LinearRegression) -> None:
        path = save(line, "other.skops")
        source = replacement(pinned, str(path), digest(path))
        assert load(source, name="x").version == digest(path)[:12]
        path.write_bytes(path.read_bytes() + b"\0")  # swapped before the worker is restarted
        with pytest.raises(ModelTamperedError):
            load(source, name="x")

    def test_of_a_pickle_needs_its_sha256_and_code_that_loads_pickles(
        self, tmp_path: Path, line: LinearRegression
    ) -> None:
        path = tmp_path / "model.pkl"
        path.write_bytes(pickle.dumps(line))
        code = Artefact("pinned.pkl", pickle=True, sha256="0" * 64)
        assert load(replacement(code, str(path), digest(path)), name="x").name == "model"
        pin(path)
        for source in (replacement(code, str(path)), replacement("a.pkl", str(path), digest(path))):
            with pytest.raises(UntrustedModelError, match="is a pickle"):
                load(source, name="x")

    def test_keeps_how_the_code_loads_a_model_and_not_what_it_trusts(self) -> None:
        code = Artefact(
            "a.onnx", "a", "1", ("x.y",), "0" * 64, keep_threads=True, format="onnx", options={"k": 1}
        )
        expected = Artefact("b.onnx", sha256="1" * 64, keep_threads=True, options={"k": 1})
        assert replacement(code, "b.onnx", "1" * 64) == expected

    @pytest.mark.parametrize("source", [None, "missing.skops", Artefact("missing.skops", trusted=("a.b",))])
    def test_of_an_unpinned_file_needs_none(self, source: Any, save: Save, line: LinearRegression) -> None:
        path = save(line, "other.skops")
        assert load(replacement(source, str(path)), name="x").version == digest(path)[:12]

    @pytest.mark.parametrize("path", [".", "/", "nothing.skops", "a\0b.skops", "x.csv"])
    def test_by_what_is_no_model_is_a_model_error(self, path: str) -> None:
        for source in ("missing.skops", lambda: 1):
            with pytest.raises(ModelError):
                load(replacement(source, path), name="x")


def test_a_link_does_not_hide_the_pin_of_its_file(save: Save, line: LinearRegression, tmp_path: Path) -> None:
    path, link = save(line), tmp_path / "current.skops"
    link.symlink_to(path)
    pin(path)
    assert load(link, name="x").version == digest(path)[:12]
    with pytest.raises(ModelError, match="needs a pin too"):
        load(replacement(link, str(save(line, "other.skops"))), name="x")
    pin(path, sha256="0" * 64)
    with pytest.raises(ModelTamperedError, match=r"change .*model\.skops\.sha256$"):
        load(link, name="x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(save: Save, line: LinearRegression, tmp_path: Path) -> None:
    path = save(line)
    os.mkfifo(tmp_path / "pipe.skops")
    with pytest.raises(ModelError, match="not a regular file"):
        load(tmp_path / "pipe.skops", name="x")
    os.mkfifo(f"{path}.sha256")
    with pytest.raises(ModelError, match=r"sha256 cannot be read: .*not a regular file"):
        load(path, name="x")
