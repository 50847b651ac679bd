"""The page of models lists what is registered, and its code runs as it stands."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import eventml.models
from eventml import entry_points
from eventml.config.settings import SECTIONS
from eventml.models import Artefact, load

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def names(group: str) -> set[str]:
    return {point.name for point in metadata.entry_points(group=group)}


def test_its_tables_have_every_format_and_every_registry() -> None:
    table, registries = PAGE.partition("## Registries")[::2]
    suffixes = set(re.findall(r"`\.(\w+)`", re.search(r"\| suffix .*?\n\n", table, re.DOTALL)[0]))  # type: ignore[index]
    assert suffixes == names("eventml.model_formats") - {"transformers", "mlflow"}  # of folders
    schemes = set(re.findall(r"`(\w+):(?:models|team|//)", registries.partition("Each is written")[0]))
    assert schemes == names("eventml.model_registries") - {"http"}


def test_its_extras_exist() -> None:
    table = re.search(r"\| suffix .*?\n\n", PAGE, re.DOTALL)[0]  # type: ignore[index]
    extras = {re.search(r"\| `(\w+)` \|", line)[1] for line in table.splitlines()[2:-1]}  # type: ignore[index]
    assert extras <= set(metadata.metadata("eventml").get_all("Provides-Extra") or ())


def test_its_artefacts_can_be_written_so() -> None:
    written = re.findall(r"^Artefact\(.*\)(?=\s*(?:#|$))", PAGE, re.MULTILINE)
    assert len(written) >= 6
    for line in written:
        assert isinstance(eval(line, {"Artefact": Artefact, "make_network": dict}), Artefact), line  # noqa: S307 - our own page


def test_its_settings_exist() -> None:
    section = re.search(r"```toml\n\[consumer\.duration\]\n(.*?)```", PAGE, re.DOTALL)[1]  # type: ignore[index]
    assert {line.partition(" =")[0] for line in section.splitlines()} <= SECTIONS["consumer"].keys()


def test_its_format_of_a_package_loads(tmp_path: Path, monkeypatch: Any) -> None:
    [code] = re.findall(r"```python\n(def read_npy.*?)```", PAGE, re.DOTALL)
    [(name, value)] = re.findall(r'^(\w+) = "(our_models:\w+)"', PAGE, re.MULTILINE)
    package: Any = ModuleType("our_models")
    package.__dict__.update(eventml=eventml, numpy=np, io=__import__("io"))
    exec("from __future__ import annotations\n" + code, package.__dict__)  # noqa: S102 - our own page
    monkeypatch.setitem(sys.modules, "our_models", package)
    point = metadata.EntryPoint(name, value, "eventml.model_formats")
    monkeypatch.setattr(entry_points, "_installed", lambda _: metadata.EntryPoints([point]))
    np.save(tmp_path / "model.npy", [1.0, 2.0])
    loaded = load(Artefact(tmp_path / "model.npy", options={"scale": 2.0}), name="x").object
    assert loaded.tolist() == [2.0, 4.0]
