"""Commands run in this process or in another; a backend that commands in one process share."""

from __future__ import annotations

import importlib
import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import pytest
from typer.testing import CliRunner

from eventml.cli.app import app
from tests.limits import started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typer.testing import Result

    from tests.cli.one_hub import OneHub

    Hubs: TypeAlias = dict[str, OneHub]

HERE = Path(__file__).parent


class Invoke(Protocol):
    """Run a command in this process."""

    def __call__(self, *args: str, stdin: str | bytes | None = None) -> Result: ...


class Start(Protocol):
    """Start a command in a process of its own, with pipes for its three streams."""

    def __call__(self, *args: str) -> subprocess.Popen[str]: ...


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory, an environment without settings, and the backend `onehub://`."""
    for name in [name for name in os.environ if name.startswith("EVENTML_")]:
        monkeypatch.delenv(name)
    plugins, work = tmp_path / "plugins", tmp_path / "work"
    dist = plugins / "onehub-1.dist-info"
    dist.mkdir(parents=True)
    work.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: onehub\nVersion: 1\n")
    (dist / "entry_points.txt").write_text("[eventml.backends]\nonehub = one_hub\n")
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(plugins), str(HERE), *filter(None, inherited)]))
    monkeypatch.setattr(sys, "path", [str(plugins), str(HERE), *sys.path])
    before = set(sys.modules)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.chdir(work)
    yield work
    for name in ("EVENTML_CONFIG", "EVENTML_PROFILE"):
        os.environ.pop(name, None)  # a command sets them for its process, and this one runs many
    for name in set(sys.modules) - before:
        # A module that this test wrote must not be imported by the next one.
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")) or name == "one_hub":
            del sys.modules[name]


@pytest.fixture
def hubs(folder: Path) -> Hubs:
    """Hubs that commands in this process have opened, by URL."""
    held: Hubs = importlib.import_module("one_hub").held
    return held


@pytest.fixture
def invoke() -> Invoke:
    runner = CliRunner()

    def run(*args: str, stdin: str | bytes | None = None) -> Result:
        return runner.invoke(app, list(args), input=stdin, catch_exceptions=False)

    return run


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def popen(*args: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "eventml", *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate, timeout=30)  # a child that is left may hold the pipes
            stack.callback(process.kill)
            return process

        yield popen


@pytest.fixture
def on_terminal() -> Callable[..., str]:
    """Run a command on a terminal; return what it shows there, without colours unless `raw`."""

    def run(*args: str, columns: int = 80, raw: bool = False, **env: str) -> str:
        reading, writing = pty.openpty()
        termios.tcsetwinsize(writing, (40, columns))
        environment = {**os.environ, "TERM": "xterm"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        environment |= env
        command = [sys.executable, "-m", "eventml", *args]
        shown = b""
        with started(command, stdin=writing, stdout=writing, stderr=writing, env=environment) as process:
            os.close(writing)
            with os.fdopen(reading, "rb", buffering=0) as terminal, suppress(OSError):  # EIO: it has ended
                while found := terminal.read(65_536):
                    shown += found
            process.wait(timeout=60)
        return shown.decode() if raw else re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", shown.decode())

    return run
