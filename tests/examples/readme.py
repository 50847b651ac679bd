"""The commands of an example's README, to be run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PATIENCE = 100  # seconds


def commands(example: str, *words: str) -> list[list[str]]:
    """What stands in the README's shell blocks, in words: those commands that begin with the given ones."""
    text = (ROOT / "examples" / example / "README.md").read_text(encoding="utf-8")
    found, pending = [], ""
    for line in "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines():
        pending += line.removesuffix("\\") + "\n"
        try:
            command = shlex.split(pending, comments=True)
        except ValueError:
            continue  # a quotation goes on in the next line
        if not line.endswith("\\"):
            found.append(command)
            pending = ""
    return [command for command in found if command[: len(words)] == [*words] != []]


def with_backend(command: list[str], url: str) -> list[str]:
    """The command, on another server than the README's."""
    assert "redis://localhost:6379/0" in command
    return [word.replace("redis://localhost:6379/0", url) for word in command]


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run one in a folder, as if this repository were installed. Returns what it said; it must succeed."""
    done = subprocess.run(  # noqa: S603 - ours
        _translated(command),
        cwd=folder,
        env=_environment(folder, environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}"
    return done.stdout


@contextmanager
def running(command: list[str], folder: Path, until: str, **environment: str) -> Iterator[str]:
    """The line in which a service says what is wanted. It runs meanwhile, and must end well when told to."""
    with subprocess.Popen(  # noqa: S603 - ours
        _translated(command),
        cwd=folder,
        env=_environment(folder, environment),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if until in line:
                break
        else:
            raise AssertionError("".join(said))
        try:
            yield line
        finally:
            process.terminate()
            process.stderr.read()
            assert process.wait(PATIENCE) == 0


def _translated(command: list[str]) -> list[str]:
    programs = {"python": [sys.executable], "eventml": [sys.executable, "-m", "eventml"]}
    return [*programs[command[0]], *command[1:]]


def _environment(folder: Path, more: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **more}
