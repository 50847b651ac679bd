"""The README's code runs as it stands, and prints what its reader expects."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

skops = pytest.importorskip("skops.io")

ROOT = Path(__file__).parents[2]


def test_readme_code_runs(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression  # noqa: PLC0415 - only where it is installed

    [code, *_] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "models").mkdir()
    skops.dump(LinearRegression().fit([[0.0], [10.0]], [0.0, 50.0]), tmp_path / "models" / "duration.skops")
    (tmp_path / "rides.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, "rides.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "r-1: 21 minutes\n"


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
