"""Budgets of imports: packages and numbers of modules, which are alike on all machines, unlike seconds.

A process that imports what it does not need starts later. Where a test fails, import the newcomer where it is
needed, or allow it here with its reason. `python -X importtime -c "import eventml"` shows who imports what.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unittest.mock import Mock

import pytest

from eventml import Bus, entry_points
from eventml.errors import ModelError
from eventml.models import load

if TYPE_CHECKING:
    from collections.abc import Collection

ROOT: Final = Path(__file__).parents[2]

CORE: Final = {
    "eventml": "itself",
    "anyio": "the event loop",
    "msgspec": "events and settings",
    "sniffio": "of anyio",
    "typing_extensions": "of anyio and msgspec",
}
COMMANDS: Final = {
    **CORE,
    "typer": "commands and options",
    "rich": "terminals",
    **dict.fromkeys(("annotated_doc", "shellingham"), "of typer"),
    **dict.fromkeys(
        ("annotated_types", "pydantic", "pydantic_core", "typing_inspection"), "of typer, for options"
    ),
}
REDIS: Final = {**CORE, "hiredis": "the protocol"}
KAFKA: Final = {
    **CORE,
    "aiokafka": "the client",
    **dict.fromkeys(("async_timeout", "cramjam", "packaging"), "of aiokafka"),
}
WEB: Final = {
    **CORE,
    "starlette": "routes",
    "uvicorn": "the server",
    "httptools": "its parser",
    **dict.fromkeys(("click", "watchfiles"), "of uvicorn's command, part of its import"),
}
"""Packages at the top level that a process may import, with what for."""

COSTLY: Final = {"email", "http", "importlib.metadata", "multiprocessing", "unittest", "xml", "zipfile"}
"""Packages of the standard library that `import eventml` does without."""

APP: Final = """
import atexit, os, sys
from pathlib import Path

from eventml import Bus

bus = Bus("numbers")


@bus.predictor("numbers", to="doubled")
def double(number: int) -> int:
    return 2 * number


atexit.register(lambda: Path(f"{os.getpid()}.modules").write_text(" ".join(sys.modules)))
"""


def imported(code: str) -> set[str]:
    """The modules that a process has imported after some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def python() -> set[str]:
    """The modules of an interpreter that does nothing; that of `make coverage` measures."""
    return imported("")


def check(modules: set[str], allowed: Collection[str], most: int) -> None:
    packages = Counter(name.partition(".")[0] for name in modules)
    known = {*sys.stdlib_module_names, *allowed, "app", "cython_runtime"}
    newcomers = {name for name in packages.keys() - known if not name.startswith("_")}  # parts of packages
    assert not newcomers, f"imported, and not allowed: {', '.join(sorted(newcomers))}"
    assert len(modules) <= most, f"{len(modules)} modules, at most {most}: {packages.most_common(20)}"


@pytest.mark.parametrize(
    ("code", "allowed", "most"),
    [
        ("import eventml, eventml.testing", CORE, 285),
        ("import eventml, eventml.backends.redis", REDIS, 305),
        ("import eventml, eventml.backends.kafka", KAFKA, 360),
        ("import eventml, eventml.deploy.web", WEB, 440),
        ("import eventml, eventml.deploy.batch", CORE, 295),
    ],
)
def test_an_import(python: set[str], code: str, allowed: Collection[str], most: int) -> None:
    check(imported(code) - python, allowed, most)


def test_import_eventml_does_without_costly_packages(python: set[str]) -> None:
    assert not (imported("import eventml") - python) & COSTLY


def test_the_app_of_the_example_does_without_the_library_of_its_models() -> None:
    """Its supervisor, and commands such as `eventml lag`, need no more."""
    assert not imported("import examples.rides.app") & {"sklearn", "skops"}


def test_a_service(python: set[str], tmp_path: Path) -> None:
    """A supervisor, and a worker that has been ready and idle."""
    (tmp_path / "app.py").write_text(APP)
    options = ("--workers", "1", "--until-idle", "0.1", "--operations", "0")
    command = [sys.executable, "-m", "eventml", "run", "app:bus", *options]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)  # noqa: S603 - our own command
    found = [set(file.read_text().split()) - python for file in tmp_path.glob("*.modules")]
    supervisor, worker = sorted(found, key=lambda modules: "typer" not in modules)
    check(supervisor, COMMANDS, 585)
    check(worker, CORE, 365)


def test_installed_packages_are_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = Mock(wraps=metadata.entry_points)
    monkeypatch.setattr(metadata, "entry_points", read)
    entry_points._installed.cache_clear()
    bus = Bus("numbers")
    bus.configure(bus.read_settings({"backend": "memory://"}))
    with pytest.raises(ModelError, match="no model at"):  # which looks for a registry and for a format
        load(tmp_path / "model.skops", name="double")
    bus.asgi()
    assert read.call_count == 1
