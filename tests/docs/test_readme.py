"""The README's app: what it predicts. `test_printed.py` runs its commands."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.docs.printed import ROOT, blocks_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

README = ROOT / "README.md"

pytest.importorskip("sklearn")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run Python in a folder with the files of the README, and return its output."""
    for block in blocks_of(README):
        if block.file:
            (tmp_path / block.file).write_text(block.text)

    def python(*arguments: str, **variables: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(  # noqa: S603 - our own interpreter
            command,
            cwd=tmp_path,
            env=variables or None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return python


def test_the_first_prediction(run: Callable[..., str]) -> None:
    [shown] = re.findall(r"^python once.py +# (.*)$", README.read_text(), re.MULTILINE)
    assert shown in run("once.py").splitlines()


def test_importing_the_app_runs_nothing(run: Callable[..., str]) -> None:
    """Nor does it connect: the backend of this environment does not exist."""
    assert run("-c", "import rides", EVENTML_BACKEND="redis://127.0.0.1:1") == ""
    assert "no problems" in run("-m", "eventml", "check", "rides:bus", EVENTML_BACKEND="redis://127.0.0.1:1")


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert (ROOT / target).exists(), target


def test_the_extras_that_all_leaves_out_are_named() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [contained] = re.findall(r"\[(.*)\]", extras["all"][0])
    [named] = re.findall(r"`all`: all of them but (.*?)\.", README.read_text(), re.DOTALL)
    left_out = set(extras) - set(contained.split(",")) - {"all", "dev", "examples"}
    assert set(re.findall(r"`(\w+)`", named)) == left_out
