"""The app on the page of growing apps: its modules, its errors and its commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "growing.md").read_text()
OTHER = """
from rides import app, durations

router = type(durations.router)()

@router.consumer("rides.started")
def duration(ride: dict) -> None: ...

app.bus.include(router)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the modules of the page."""
    modules = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
    assert len(modules) == PAGE.count("```python")
    for name, code in modules:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    (tmp_path / "rides" / "other.py").write_text(OTHER)
    return tmp_path


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run Python, and return what it wrote."""
    command = [sys.executable, *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - as above


@pytest.mark.parametrize("target", ["rides.app:bus", "rides.factory:make_bus()"])
def test_the_bus_passes_its_check(folder: Path, target: str) -> None:
    done = run(folder, "-m", "eventml", "check", target)
    assert done.returncode == 0, done.stderr
    assert "rides.duration " in done.stdout


def test_the_commands_of_the_page(folder: Path) -> None:
    (folder / "rides.csv").write_text("ride_id,trip_distance\nr1,2\n")
    [line] = re.findall(r"^eventml (score .*)$", PAGE, re.MULTILINE)
    done = run(folder, "-m", "eventml", *line.replace("'", "").split())
    assert done.returncode == 0, done.stderr
    assert "10" in (folder / "durations.csv").read_text()


def test_the_error_of_the_page(folder: Path) -> None:
    [shown] = re.findall(r"```text\n(.*?)\n```", PAGE)
    done = run(folder, "-c", "import rides.other")
    assert done.stderr.splitlines()[-1] == f"eventml.errors.RegistrationError: {shown}"


def test_two_buses_in_a_process(folder: Path) -> None:
    done = run(folder, "-m", "pytest", "-q", "-p", "no:schemathesis", "test_two.py")
    assert done.returncode == 0, done.stdout
    (folder / "main.py").write_text(
        "import asyncio\nfrom rides.two import bus\n"
        "async def main():\n    async with await bus.run_in_background():\n"
        "        await bus.publish('rides.started', {}, id='r-2')\n        await asyncio.sleep(0.5)\n"
        "asyncio.run(main())\n"
    )
    assert run(folder, "main.py").stdout == "noted r-2\n"
