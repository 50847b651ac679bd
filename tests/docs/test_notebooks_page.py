"""The cells on the page of notebooks give what it shows, in IPython."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "notebooks.md"
NOTEBOOK = Path(__file__).with_name("notebook.py")
HANDLER = """
@bus.predictor("numbers", to="results")
def count(number: int) -> dict:
    return dict(n={0})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def run(cells: list[str], folder: Path) -> list[str]:
    """Run cells in IPython, in a process of its own, and return their results."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, str(NOTEBOOK)],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, "IPYTHONDIR": str(folder)},
        timeout=60,
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_the_cells_of_the_page(folder: Path) -> None:
    parts = re.findall(r"```python\n(.*?)```(?:\n+```text\n(.*?)\n```)?", PAGE.read_text(), re.DOTALL)
    results = run([cell for cell, _ in parts], folder)
    for (cell, shown), result in zip(parts, results, strict=True):
        assert result == (shown or "None"), cell


def test_cells_that_are_run_again(folder: Path) -> None:
    """The whole of a session: handlers defined again, and the bus started again without a stop."""
    cells = [
        "import eventml\nfrom eventml.testing import TestBus\nbus = eventml.Bus('numbers')",
        HANDLER.format("number"),
        "running = await bus.run_in_background()",
        "await bus.request('numbers', 1)",
        HANDLER.format("number * 10"),
        "await bus.request('numbers', 1)",  # the handlers that run go on as they were
        "running = await bus.run_in_background()",
        "await bus.request('numbers', 1)",
        "t = await TestBus(bus).start()",
        "await t.publish('numbers', 2)\nt.published('results')",
        HANDLER.format("number * 100"),
        "t = await TestBus(bus).start()",
        "await t.publish('numbers', 2)\nt.published('results')",
        "await t.stop()",
        "running = await bus.run_in_background()",
        "await bus.request('numbers', 1)",
        "await running.stop()",
        "await bus.publish('numbers', 1)",
    ]
    results = run(cells, folder)
    shown = [result for result in results if result != "None"]
    assert [re.sub(r"\W", "", result) for result in shown[:6]] == ["n1", "n1", "n10", "n20", "n200", "n100"]
    assert shown[6:] == ["""NotOpenError("bus 'numbers' is not open; use it inside `async with bus:`")"""]
