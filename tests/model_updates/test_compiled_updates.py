"""Compiled models in a running handler: golden rows, new versions, settings, challengers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventml import Artefact, Bus, ModelError, config
from eventml.errors import ConfigError
from eventml.models import compiled
from tests.model_updates.test_golden_rows import lines, version
from tests.model_updates.test_model_updates import adding, running

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.model_updates.conftest import ModelFile

pytestmark = pytest.mark.anyio
pytest.importorskip("skl2onnx")


async def test_a_new_version_is_compiled_too(model_file: ModelFile) -> None:
    [first] = model_file.adds
    async with running(adding(Artefact(model_file.path, compile="onnx"))) as run:
        assert await run.answer(1.0) == (2.0, f"{first}-onnx")
        second = model_file.replace(3.0)
        await run.until(lambda: run.stats.model_updates == 1)
        assert await run.answer(1.0) == (4.0, f"{second}-onnx")


async def test_golden_rows_compare_it_with_the_original(
    model_file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiled model is wrong for numbers that are generated nowhere."""
    golden = lines(tmp_path / "golden.jsonl", {"x": 1.0}, {"x": 123456.0})
    bus = adding(Artefact(model_file.path, compile="onnx"), golden=golden)
    [first] = model_file.adds
    assert await version(bus) == f"{first}-onnx"
    predict = compiled.CompiledModel.predict

    def wrong(self: Any, X: Any) -> Any:  # noqa: N803 - the name in scikit-learn
        return predict(self, X) + 10.0 * (self._rows(X)[:, 0] == 123456.0)

    monkeypatch.setattr(compiled.CompiledModel, "predict", wrong)
    with pytest.raises(ModelError, match=r"golden.jsonl: .*compiled, the model predicts 123467.*row 2 of 2"):
        await version(bus)


async def test_the_original_is_not_kept(model_file: ModelFile) -> None:
    async with adding(Artefact(model_file.path, compile="onnx")).loaded_handlers() as [loaded]:
        assert loaded.model is not None
        assert loaded.model.compared is None


def configured(bus: Bus, environ: Mapping[str, str]) -> Bus:
    variables = {f"EVENTML_CONSUMER_{name}": value for name, value in environ.items()}
    bus.configure(config.load(environ=variables, known_handlers=["add"]))
    return bus


async def test_a_setting_compiles_the_model_of_the_code_or_of_the_settings(
    model_file: ModelFile, tmp_path: Path
) -> None:
    [first] = model_file.adds
    bus = configured(adding(model_file.path), {"ADD_MODEL_COMPILE": "onnx"})
    assert await version(bus) == f"{first}-onnx"
    missing = adding(tmp_path / "missing.skops")
    bus = configured(missing, {"ADD_MODEL_COMPILE": "onnx", "ADD_MODEL": str(model_file.path)})
    assert await version(bus) == f"{first}-onnx"


async def test_a_model_that_the_code_makes_cannot_be_compiled_by_a_setting() -> None:
    bus = configured(adding(lambda: 1), {"ADD_MODEL_COMPILE": "onnx"})
    with pytest.raises(ConfigError, match="model_compile needs a model in a file or a registry"):
        await version(bus)


async def test_a_challenger_may_be_the_champion_compiled(model_file: ModelFile, tmp_path: Path) -> None:
    file = tmp_path / "eventml.toml"
    file.write_text(f'[consumer.add.challenger.fast]\nmodel = "{model_file.path}"\nmodel_compile = "onnx"\n')
    bus = adding(model_file.path)
    bus.configure(config.load(environ={"EVENTML_CONFIG": str(file)}, known_handlers=["add"]))
    [first] = model_file.adds
    async with bus.loaded_handlers() as loaded:
        found = {one.handler.name: one.model.version for one in loaded if one.model is not None}
    assert found == {"add": first, "add.challenger.fast": f"{first}-onnx"}
