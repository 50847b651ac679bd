"""The page that the site begins with: its code and its commands, from an empty folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

PAGE = (Path(__file__).parents[2] / "docs" / "index.md").read_text("utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "rides.py").write_text(code)
    (tmp_path / "rides.csv").write_text("ride_id,miles\nr-1,3.0\n")
    return tmp_path


@pytest.mark.parametrize("command", ["check", "score"])
def test_a_command_of_the_page_works(folder: Path, command: str) -> None:
    [line] = re.findall(rf"^eventml ({command} .*)$", PAGE, re.MULTILINE)
    done = subprocess.run(  # noqa: S603 - our own page
        [sys.executable, "-m", "eventml", *line.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if command == "score":
        import pyarrow.parquet  # noqa: PLC0415 - only where it is installed

        assert pyarrow.parquet.read_table(folder / "minutes.parquet")["minutes"].to_pylist() == pytest.approx(
            [14]
        )


def test_the_predictor_of_the_page_answers(folder: Path) -> None:
    test = (
        "import asyncio\nfrom eventml.testing import TestBus\nfrom rides import RideStarted, bus\n"
        "async def main():\n"
        "    async with TestBus(bus) as test:\n"
        "        await test.publish('rides.started', RideStarted('r-1', 3.0))\n"
        "        print([round(one.minutes) for one in test.published('rides.duration')])\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", test], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[14]\n", done.stderr
