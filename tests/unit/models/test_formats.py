"""Formats: found by suffix, content or name; their options, trust and threads; without their library."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec import structs

from eventml import Bus, entry_points
from eventml.cli.check import check_bus
from eventml.errors import ConfigError, MissingExtraError, ModelError, UntrustedModelError
from eventml.models import Artefact, ModelFile, load
from tests.unit.models.format_cases import CASES, ROWS, TARGET, TORCH, digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def saved(name: str, folder: Path) -> tuple[Artefact, Any]:
    for module in CASES[name].needs:
        pytest.importorskip(module, reason=f"{module} is not installed: the format {name} is not tested")
    return CASES[name].save(folder)


EXTRAS = {
    "skops": ("skops", "sklearn"),
    "onnx": ("onnxruntime", "onnx"),
    "ubj": ("xgboost", "xgboost"),
    "json": ("xgboost", "xgboost"),
    "txt": ("lightgbm", "lightgbm"),
    "cbm": ("catboost", "catboost"),
    "safetensors": ("safetensors.torch", "torch"),
    "pt": ("torch", "torch"),
    "pt2": ("torch", "torch"),
    "transformers": ("transformers", "transformers"),
    "mlflow": ("mlflow.models", "mlflow"),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, extra = EXTRAS[name]
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / f"model.{name}"
    path.write_bytes(b"x")
    given: dict[str, Any] = {"safetensors": {"factory": dict}, "transformers": {"task": "x"}}
    source = Artefact(path, sha256=digest(path), options=given.get(name, {}))
    with pytest.raises(MissingExtraError, match=rf"loading .*pip install 'eventml\[{extra}\]'"):
        load(source, name="x")


@pytest.mark.anyio
async def test_check_reports_what_a_model_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    (tmp_path / "model.txt").write_bytes(b"tree")
    bus = Bus("rides")
    for name, file in {
        "lacking": "model.txt",
        "unknown": "model.h5",
        "elsewhere": "ftp://host/m.txt",
    }.items():

        @bus.predictor("rides", to=name, model=str(tmp_path / file) if "//" not in file else file, name=name)
        def predict(rides: list[int], model: Any) -> list[int]:
            return rides

    report = await check_bus(bus, connect=False)
    assert len(report.problems) == 3
    assert re.search(r"lacking: loading .*pip install 'eventml\[lightgbm\]'", report.problems[0])
    assert re.search(r"unknown: .*\.h5 is not a known model format", report.problems[1])
    assert re.search(r"elsewhere: ftp://host/m\.txt: ftp is no known registry", report.problems[2])


def test_every_extra_that_an_error_names_exists() -> None:
    provided = set(metadata.metadata("eventml").get_all("Provides-Extra") or ())
    assert {extra for _, extra in EXTRAS.values()} | {"https", "s3", "gs", "hf"} <= provided


@pytest.mark.parametrize("name", ["xgboost ubj", "xgboost json", "lightgbm", "catboost regressor", "onnx"])
@pytest.mark.parametrize("cut", [0, 1, 0.3, 0.5])
def test_a_file_that_is_cut_off_is_refused(name: str, cut: float, tmp_path: Path) -> None:
    artefact, _ = saved(name, tmp_path)
    path = tmp_path / "cut" / f"{artefact.path}".rpartition("/")[2]
    path.parent.mkdir()
    content = (tmp_path / path.name).read_bytes()
    path.write_bytes(content[: int(len(content) * cut) if cut < 1 else 1])
    with pytest.raises(ModelError, match=r"cannot be loaded as|not a complete"):
        load(path, name="x")


@pytest.mark.parametrize("name", ["pt", "pt2"])
def test_a_program_of_torch_needs_its_sha256(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{name}"
    path.write_bytes(b"x")
    (tmp_path / f"model.{name}.sha256").write_text(digest(path))
    for source in (path, Artefact(path, pickle=True)):
        with pytest.raises(UntrustedModelError, match=r"runs code in it.*Artefact\(.*sha256="):
            load(source, name="x")


def test_a_format_can_be_named_in_the_place_of_the_suffix(tmp_path: Path) -> None:
    artefact, own = saved("xgboost ubj", tmp_path)
    path = (tmp_path / "model.ubj").rename(tmp_path / "model.xgb")
    with pytest.raises(ModelError, match=r"\.xgb is not a known model format; format="):
        load(path, name="x")
    assert artefact.format is None
    assert load(Artefact(path, format="ubj"), name="x").object.predict(ROWS).tolist() == own.tolist()
    with pytest.raises(ModelError, match="ubjson is not a known model format"):
        load(Artefact(path, format="ubjson"), name="x")


@pytest.mark.parametrize("options", [{"provider": ["CPUExecutionProvider"]}, {"providers": 1}])
def test_an_option_that_a_format_does_not_take_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    artefact, _ = saved("onnx", tmp_path)
    with pytest.raises(ModelError, match=rf"model\.onnx.*options={{'{next(iter(options))}'.*TypeError"):
        load(Artefact(artefact.path, options=options), name="x")


def test_a_provider_that_onnx_runtime_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    artefact, _ = saved("onnx", tmp_path)
    source = Artefact(artefact.path, options={"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]})
    with pytest.raises(
        ModelError, match=r"lacks CUDAExecutionProvider \(it has .*CPUExecutionProvider.*-gpu"
    ):
        load(source, name="x")


class TestOneThread:
    """A loaded model computes in one thread, unless its threads are kept."""

    def test_of_xgboost(self, tmp_path: Path) -> None:
        for name in ("xgboost ubj", "xgboost booster"):
            artefact, _ = saved(name, tmp_path)
            for keep in (False, True):
                model = load(Artefact(artefact.path, keep_threads=keep), name="x").object
                booster = model.get_booster() if hasattr(model, "get_booster") else model
                threads = json.loads(booster.save_config())["learner"]["generic_param"]["nthread"]
                assert (threads == "1") is not keep

    @pytest.mark.parametrize(
        ("name", "option"), [("lightgbm", "num_threads"), ("catboost classifier", "thread_count")]
    )
    def test_of_those_that_take_it_at_each_call(self, name: str, option: str, tmp_path: Path) -> None:
        artefact, own = saved(name, tmp_path)
        model = load(artefact, name="x").object
        assert model.predict.keywords == {option: 1}
        assert model.predict(ROWS, **{option: 2}).tolist() == own.tolist()  # a call may still say otherwise
        kept = load(Artefact(artefact.path, keep_threads=True), name="x").object
        assert not hasattr(kept.predict, "keywords")

    @pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
    def test_of_estimators_for_which_none_means_all_cores(self, library: str) -> None:
        module = pytest.importorskip(library)
        kind = {"xgboost": "XGBRegressor", "lightgbm": "LGBMRegressor"}[library]
        fitted = getattr(module, kind)(n_estimators=2, n_jobs=None).fit(ROWS, TARGET)
        model = load(lambda: {"inner": fitted}, name="x")
        assert model.object["inner"].n_jobs == 1
        assert model.version != "unversioned"

    @pytest.mark.parametrize("name", ["lightgbm", "catboost regressor"])
    def test_of_a_factory_s_model_which_keeps_a_version(self, name: str, tmp_path: Path) -> None:
        artefact, _ = saved(name, tmp_path)
        versions = {load(lambda: load(artefact, name="x").object, name="x").version for _ in range(2)}
        assert len(versions) == 1
        assert versions != {"unversioned"}

    def test_of_torch(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch", reason="torch is not installed: its threads are not tested")
        torch.set_num_threads(2)
        load(saved("safetensors", tmp_path)[0], name="x")
        assert torch.get_num_threads() == 1


def test_a_module_of_torch_predicts_and_does_not_train(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: its modules are not tested")
    module = load(saved("safetensors", tmp_path)[0], name="x").object
    assert not module.training
    assert not any(weights.requires_grad for weights in module.parameters())


def test_the_device_auto_is_cuda_where_there_is_a_card(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: its devices are not tested")
    artefact, _ = saved("safetensors", tmp_path)
    options = {**artefact.options, "device": "auto"}
    module = load(structs.replace(artefact, options=options), name="x").object
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert {weights.device.type for weights in module.parameters()} == {expected}


def test_weights_that_do_not_fit_the_factory_s_module_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: its modules are not tested")
    artefact, _ = saved("safetensors", tmp_path)
    other = Artefact(artefact.path, options={"factory": lambda: torch.nn.Linear(3, 1)})
    with pytest.raises(ModelError, match=r"(?s)cannot be loaded as safetensors.*Missing key"):
        load(other, name="x")
    with pytest.raises(ModelError, match=r"missing 1 required keyword-only argument: 'factory'"):
        load(Artefact(artefact.path), name="x")


def test_a_pipeline_with_weights_in_a_pickle_is_refused(tmp_path: Path) -> None:
    for module in (*TORCH, "transformers"):
        pytest.importorskip(module, reason=f"{module} is not installed: pipelines are not tested")
    artefact, _ = saved("transformers", tmp_path)
    weights = tmp_path / "sentiment" / "model.safetensors"
    state = sys.modules["safetensors.torch"].load_file(weights)
    sys.modules["torch"].save(state, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ModelError, match="cannot be loaded as transformers"):
        load(artefact, name="x")


class TestFolders:
    """A folder's version and pin are those of the list of digests of its files."""

    @pytest.fixture
    def format_of_folders(self, monkeypatch: pytest.MonkeyPatch) -> None:
        register(monkeypatch, "folder", lambda file: sorted(p.name for p in file.path.iterdir()))

    def test_its_digest_is_what_sha256sum_prints(self, tmp_path: Path, format_of_folders: None) -> None:
        folder = tmp_path / "model"
        for name in ("b.txt", "a b.txt", "B/c.txt", "é.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        listed = r"find -L . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum"
        done = subprocess.run(listed, shell=True, cwd=folder, capture_output=True, text=True, check=True)  # noqa: S602 - the text above
        expected = done.stdout.split()[0]
        model = load(Artefact(folder, format="folder", sha256=expected), name="x")
        assert (model.name, model.version) == ("model", expected[:12])
        (folder / "b.txt").write_text("changed")
        with pytest.raises(ModelError, match="is not the expected file"):
            load(Artefact(folder, format="folder", sha256=expected), name="x")

    def test_a_folder_of_no_known_format_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"cannot be read: there is no MLmodel or config\.json in it"):
            load(tmp_path, name="x")


def register(monkeypatch: pytest.MonkeyPatch, name: str, *functions: Callable[[ModelFile], Any]) -> None:
    """Add a third party's format, as its package registers it."""
    theirs = [
        metadata.EntryPoint(name, f"theirs{n}:read", "eventml.model_formats") for n in range(len(functions))
    ]
    both = metadata.EntryPoints([*metadata.entry_points(group="eventml.model_formats"), *theirs])
    monkeypatch.setattr(entry_points, "_installed", lambda _: both)
    for number, function in enumerate(functions):
        monkeypatch.setitem(
            sys.modules, f"theirs{number}", type("theirs", (), {"read": staticmethod(function)})
        )


def test_a_third_party_s_format_is_found_by_its_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.npy"
    np.save(path, TARGET)
    with pytest.raises(ModelError, match=r"\.npy is not a known model format"):
        load(path, name="x")

    def read(file: ModelFile, /, *, times: int = 1) -> Any:
        assert file.data == path.read_bytes()
        return np.load(file.path) * times

    register(monkeypatch, "npy", read)
    model = load(Artefact(path, options={"times": 2}), name="x")
    assert model.object.tolist() == (TARGET * 2).tolist()
    assert model.version == digest(path)[:12]


def test_two_packages_that_register_one_suffix_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "npy", id, id)
    with pytest.raises(
        ConfigError, match=r"npy is registered twice.* theirs0:read and theirs1:read; uninstall one"
    ):
        load(tmp_path / "model.npy", name="x")


@pytest.mark.parametrize("name", ["npy", "NPY"])
def test_a_format_is_named_in_capitals_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    np.save(tmp_path / "model.npy", TARGET)
    register(monkeypatch, "NPY", lambda file: np.load(file.path))
    assert load(Artefact(tmp_path / "model.npy", format=name), name="x").object.tolist() == TARGET.tolist()
