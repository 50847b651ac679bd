"""The captures of the commands: the committed ones fit their terminals, and the script still makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from examples.rides.capture import AFTER, BEFORE, RUNNING

if TYPE_CHECKING:
    from backends.redis.server import RedisServer

ROOT = Path(__file__).parents[2]
CAPTURES = ROOT / "docs" / "captures"
NAMES = [*BEFORE, *RUNNING, *AFTER]
TABLES = ["check", "lag", "top", "dlq-list", "dlq-list-single", "graph", "help"]
IDENTIFIERS = {
    "check": ["rides.started", "rides.duration", "rides.tip", "rides.alarm"],
    "lag": ["rides.duration", "rides.tip", "rides.alarm"],
    "top": ["alarm-1", "duration-1", "duration-2", "tip-1"],
    "dlq-list": ["duration", "tip", "DecodeError"],
}


def table_of(folder: Path, name: str, columns: int) -> list[str]:
    shown = (folder / f"{name}-{columns}.txt").read_text().splitlines()
    return [line for line in shown if not line.startswith(("$ ", "eventml dlq replay", "rides on "))]


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_fits_its_terminal(name: str, columns: int) -> None:
    lines = table_of(CAPTURES, name, columns)
    assert max(map(len, lines)) <= columns
    assert all(text in "\n".join(lines) for text in IDENTIFIERS.get(name, ()))
    assert "…" not in "".join(lines) or "reason" in lines[0], "a reason may be cut, and nothing else"


def test_wide_terminals_show_more() -> None:
    for name in ("check", "top"):
        assert any(line.startswith("left out, to fit 80") for line in table_of(CAPTURES, name, 80))
        assert not any(line.startswith("left out") for line in table_of(CAPTURES, name, 160))


def test_every_capture_is_there_and_nothing_of_the_machine() -> None:
    expected = {"logs.txt", *(f"{name}-{columns}.txt" for name in NAMES for columns in (80, 160))}
    assert {path.name for path in CAPTURES.iterdir()} == expected
    page = (ROOT / "docs" / "cli.md").read_text()
    for path in CAPTURES.iterdir():
        text = path.read_text()
        assert not any(word in text for word in (str(ROOT), "Traceback", "\x1b", "\r")), path.name
        assert f"captures/{path.name}" in page or path.name == "logs.txt"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_script_makes_captures(redis_server: RedisServer, tmp_path: Path) -> None:
    del redis_server  # it skips the test where no server is installed
    names = ["graph", "lag", "run", "dlq-list"]  # `run` handles the bad events
    script = [sys.executable, "-m", "examples.rides.capture", "--to", str(tmp_path), "--events", "20000"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*script, "--only", ",".join(names)], env=env, cwd=ROOT, check=True)  # noqa: S603 - ours
    assert {path.name for path in (tmp_path / "captures").iterdir()} == {
        "logs.txt",
        *(f"{name}-{columns}.txt" for name in names for columns in (80, 160)),
    }
    assert (
        "eventml dlq replay examples.rides.app:bus --handler"
        in (tmp_path / "captures" / "dlq-list-80.txt").read_text()
    )
    assert (tmp_path / "graph.svg").read_text() == (ROOT / "docs" / "graph.svg").read_text()
