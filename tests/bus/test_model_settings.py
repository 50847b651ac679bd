"""A model's path and sha256 in the settings, with a pinned model in the code."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import skops.io
from sklearn.linear_model import LinearRegression

from eventml import Bus, config
from eventml.cli.check import check_bus
from eventml.errors import ConfigError, ModelError, ModelTamperedError
from eventml.models import Artefact

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "other.skops"
    skops.io.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]), path)
    return path


def configured(pinned: Path, **variables: str) -> Bus:
    bus = Bus("rides")

    @bus.predictor("rides", to="durations", model=Artefact(pinned, sha256="0" * 64))
    def duration(rides: list[Any], model: Any) -> list[Any]:
        return list(model.predict(rides))

    environ = {f"EVENTML_CONSUMER_DURATION_{name.upper()}": value for name, value in variables.items()}
    bus.configure(config.load(environ=environ, known_handlers=["duration"]))
    return bus


async def sha256(path: Path) -> str:
    return hashlib.sha256(await anyio.Path(path).read_bytes()).hexdigest()


async def version(bus: Bus) -> str:
    async with bus.loaded_handlers() as [loaded]:
        assert loaded.model is not None
        return loaded.model.version


async def test_a_path_in_a_variable_does_not_drop_the_pin_of_the_code(model: Path) -> None:
    bus = configured(model, model=str(model))
    with pytest.raises(ModelError, match="replaces a model that the code pins"):
        await version(bus)
    report = await check_bus(bus, connect=False)
    assert [problem for problem in report.problems if problem.startswith("duration: ")]


async def test_a_path_with_its_sha256_replaces_a_pinned_model(model: Path) -> None:
    digest = await sha256(model)
    bus = configured(model, model=str(model), model_sha256=digest)
    assert await version(bus) == digest[:12]
    await anyio.Path(model).write_bytes(b"another file")  # before the next start of a worker
    with pytest.raises(ModelTamperedError):
        await version(bus)


async def test_a_sha256_alone_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"^consumer\.duration\.model_sha256: set model too"):
        await version(configured(model, model_sha256="0" * 64))
