"""The locks: every requirement in one version, with the hashes of its files, and no index named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
LOCKS: Final = ("requirements.lock", "deployment/requirements.lock")
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

NOT_LOCKED: Final = {"xgboost", "torch", "transformers", "gs", "az"}
"""Extras that `make` does not install: gigabytes for CUDA, and stores that no test can serve. The tests of
torch and transformers run where these are installed, and those of XGBoost with its build for the CPU."""


def locked(lock: str) -> dict[str, tuple[str, frozenset[str]]]:
    """The version and the hashes of each package of a lock."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for entry in (ROOT / lock).read_text().replace("\\\n", "").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", entry.strip())
        parsed = Requirement(requirement)
        [pin] = parsed.specifier
        assert pin.operator == "==", entry
        assert not parsed.url
        found[str(canonicalize_name(parsed.name))] = (pin.version, frozenset(map(str, hashes)))
    return found


def required(extras: set[str]) -> dict[str, Requirement]:
    """The requirements of the package with some extras, by name."""
    seen: dict[str, Requirement] = {}
    wanted = set(extras)
    done: set[str] = set()
    texts = list(PROJECT["dependencies"])
    while wanted - done:
        extra = (wanted - done).pop()
        done.add(extra)
        for text in PROJECT["optional-dependencies"][extra]:
            parsed = Requirement(text)
            if parsed.name == PROJECT["name"]:
                wanted |= parsed.extras
            else:
                texts.append(text)
    for parsed in map(Requirement, texts):
        seen[canonicalize_name(parsed.name)] = parsed
    return seen


@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_has_one_version_and_the_hashes_of_its_files(lock: str) -> None:
    for name, (version, hashes) in locked(lock).items():
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), name
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), name
    assert "://" not in (ROOT / lock).read_text()


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("requirements.lock", set(PROJECT["optional-dependencies"]) - NOT_LOCKED),
        ("deployment/requirements.lock", {"redis", "kafka", "sklearn", "metrics"}),
    ],
)
def test_a_lock_has_what_the_package_and_its_build_require(lock: str, extras: set[str]) -> None:
    found = locked(lock)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for name, parsed in {**required(extras), **{Requirement(b).name: Requirement(b) for b in build}}.items():
        assert name in found, f"{name} is not in {lock}: run `make lock`"
        assert parsed.specifier.contains(found[name][0]), name


def test_the_image_installs_what_is_tested() -> None:
    tested = locked("requirements.lock")
    assert locked("deployment/requirements.lock").items() <= tested.items()


@pytest.mark.parametrize("file", ["Makefile", "deployment/Dockerfile"])
def test_nothing_is_installed_without_a_hash(file: str) -> None:
    """Each call of pip asks for the lock's hashes, or installs the package itself from this folder."""
    lines = re.split(r"\n|&&", (ROOT / file).read_text().replace("\\\n", " "))
    option = next((line.partition(":=")[2] for line in lines if re.match(r"PIP +:=", line)), "")
    calls = [
        line.replace("$(PIP)", option) for line in lines if re.search(r"pip install |^\t\$\(PIP\)", line)
    ]
    *locked_ones, package = [call for call in calls if ":=" not in call and "build/lock" not in call]
    assert locked_ones
    for call in locked_ones:
        assert re.search(r"--require-hashes .*--requirement \S*requirements\.lock", call)
    assert all("--no-deps" in call for call in [*locked_ones, package])
    assert "--no-build-isolation" in package
