"""The wheel in an environment of its own: `eventml init` and `eventml demo` find what they need in it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.docs.wheel import build_wheel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def run(*command: str | Path, folder: Path) -> str:
    """Run a command outside the repository. Returns its standard output; it must succeed."""
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith(("EVENTML_", "PYTHONPATH"))
    }
    done = subprocess.run(  # noqa: S603 - ours
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the wheel. Its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    wheel = build_wheel(folder)
    venv.create(folder / "venv")
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    run(*pip, "--python", folder / "venv", "install", "--no-deps", wheel, folder=folder)
    # A path in a .pth file comes after this environment's packages, and .pth files in it have no effect: the
    # editable install of the repository is not on it.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    found = run(
        folder / "venv" / "bin" / "python", "-c", "import eventml; print(eventml.__file__)", folder=folder
    )
    assert Path(found.strip()).is_relative_to(packages)
    return folder / "venv" / "bin"


def test_a_project_is_written_trained_tested_checked_and_run(scripts: Path, tmp_path: Path) -> None:
    python, eventml = scripts / "python", scripts / "eventml"
    assert "eventml check shop.app:bus" in run(eventml, "init", "shop", "--with", "docker", folder=tmp_path)
    shop = tmp_path / "shop"
    run(python, "train.py", folder=shop)
    assert "3 passed" in run(python, "-m", "pytest", "-q", "-p", "no:schemathesis", folder=shop)
    assert "no problems" in run(eventml, "check", "shop.app:bus", folder=shop)
    assert "1,000 predictions on rides.duration" in run(python, "simulate.py", folder=shop)
    run(eventml, "run", "shop.app:bus", "--until-idle", "0.1", folder=shop)
    assert (shop / "Dockerfile").exists()


def test_the_demo_runs_the_example_of_the_wheel(scripts: Path, tmp_path: Path) -> None:
    options = ("--rides", "600", "--rate", "600", "--backend", "memory://")
    counted = run(scripts / "eventml", "demo", *options, folder=tmp_path)
    assert counted == "600 rides, 0 lost, 4 dead letters\n"
    assert list(tmp_path.iterdir()) == []
