"""The code of docs/testing.md and docs/writing-a-backend.md runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"


def blocks(page: str) -> dict[str, str]:
    """The page's Python, by the file that each block says it is of."""
    files: dict[str, str] = {}
    for name, code in re.findall(
        r"```python\n# (\w+\.py)[^\n]*\n(.*?)```", (DOCS / page).read_text(), re.DOTALL
    ):
        files[name] = files.get(name, "") + code
    return files


def run(folder: Path, *options: str) -> str:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:schemathesis",  # the page does not use it, and it takes two seconds to import
        "--rootdir",
        str(folder),
        *options,
    ]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)  # noqa: S603 - ours
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow  # a pytest of its own
def test_the_page_on_testing(tmp_path: Path) -> None:
    for name, code in blocks("testing.md").items():
        (tmp_path / name).write_text(code)
    assert "3 passed" in run(tmp_path)


@pytest.mark.slow  # a pytest of its own
def test_the_page_on_backends(tmp_path: Path) -> None:
    """Its pigeons are played by memory; a few cases show that its harness holds a backend to something."""
    files = blocks("writing-a-backend.md")
    compile(files["eventml_pigeon.py"], "eventml_pigeon.py", "exec")
    (tmp_path / "eventml_pigeon.py").write_text("from eventml.backends.memory import *\n")
    (tmp_path / "test_contract.py").write_text(files["test_contract.py"])
    assert re.search(r"\b[1-9]\d* passed", run(tmp_path, "-k", "arrives or told or topic"))


def test_every_link_leads_somewhere() -> None:
    for page in ("testing.md", "writing-a-backend.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (DOCS / page).read_text()):
            assert (DOCS / target).exists(), target
