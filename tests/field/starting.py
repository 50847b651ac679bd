"""Apps and commands for the tests of start-up: a model that loads for a minute, a module that never ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 30.0  # seconds; only a failing test waits so long

LOADING = """
import time
from pathlib import Path
from eventml import Bus

bus = Bus("app")

def load():
    Path("loading").touch()
    time.sleep(60)
    return object()

@bus.lifespan
def resource():
    try:
        yield 1
    finally:
        Path("left").touch()

@bus.predictor("rides", to="durations", model=load)
def duration(ride: dict, model: object, resource: int) -> float:
    return 1.0
"""


def start(folder: Path, *command: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start `eventml` in a folder, behind the words of another command."""
    return subprocess.Popen(  # noqa: S603 - our own program
        [*before, sys.executable, "-m", "eventml", *command],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("EVENTML_")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a process has written a file."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.02)
