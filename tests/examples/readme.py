"""Run the commands of an example's README, as they are written there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.limits import started

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
TIMEOUT = 100  # seconds


def commands(example: str, *words: str) -> list[list[str]]:
    """Return the commands of the README's shell blocks that begin with these words, each split into words."""
    text = (ROOT / "examples" / example / "README.md").read_text(encoding="utf-8")
    found, pending = [], ""
    for line in "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines():
        pending += line.removesuffix("\\") + "\n"
        try:
            command = shlex.split(pending, comments=True)
        except ValueError:
            continue  # a quoted string continues on the next line
        if not line.endswith("\\"):
            found.append(command)
            pending = ""
    return [command for command in found if command[: len(words)] == [*words] != []]


def with_backend(command: list[str], url: str) -> list[str]:
    """Return the command with another server than the README's."""
    assert "redis://localhost:6379/0" in command
    return [word.replace("redis://localhost:6379/0", url) for word in command]


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run a command in a folder, with this repository importable. Returns its output; it must succeed."""
    done = subprocess.run(  # noqa: S603 - ours
        _translated(command),
        cwd=folder,
        env=_environment(folder, environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}"
    return done.stdout


@contextmanager
def running(command: list[str], folder: Path, until: str, **environment: str) -> Iterator[str]:
    """Run a service and give the first line of its log that contains `until`; it must stop with status 0."""
    options = {"cwd": folder, "env": _environment(folder, environment), "text": True}
    with started(_translated(command), stderr=subprocess.PIPE, limit=3 * TIMEOUT, **options) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if until in line:
                break
        else:
            raise AssertionError("".join(lines))
        try:
            yield line
        finally:
            process.terminate()
            process.stderr.read()
            assert process.wait(TIMEOUT) == 0


def _translated(command: list[str]) -> list[str]:
    programs = {"python": [sys.executable], "eventml": [sys.executable, "-m", "eventml"]}
    return [*programs[command[0]], *command[1:]]


def _environment(folder: Path, more: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **more}
