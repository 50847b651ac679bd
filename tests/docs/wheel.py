"""eventml installed from its wheel, in an environment of its own that shares the packages of this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the source, and return it."""
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    [wheel] = folder.glob("*.whl")
    return wheel


def install_beside(wheel: Path, folder: Path) -> Path:
    """Install a wheel beside the packages of this environment, and return the folder of its programs."""
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    _pip("--python", str(programs / "python"), "install", "--no-deps", "--no-index", str(wheel))
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib"))  # its own .pth files are not read
    return programs


def environment(programs: Path, **variables: str) -> dict[str, str]:
    """The variables of a process for which `eventml` and `python` are those of the installed wheel."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EVENTML_", "PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **variables}


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)  # noqa: S603 - our own command
