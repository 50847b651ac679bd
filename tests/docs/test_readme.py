"""The README's code runs as it stands, and prints what its reader expects."""

from __future__ import annotations

import json
import re
import sqlite3
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

    # The same file is deployed as a batch job; importing it runs nothing.
    connection = sqlite3.connect(tmp_path / "trips.db")
    connection.execute("CREATE TABLE rides (ride_id TEXT, trip_distance REAL)")
    connection.execute("INSERT INTO rides VALUES ('r-1', 4.2)")
    connection.commit()
    connection.close()
    [score] = re.findall(r"^eventml (score .*?) +#", (ROOT / "README.md").read_text(), re.MULTILINE)
    scored = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "eventml", *score.split(), "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["written"] == 1


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
