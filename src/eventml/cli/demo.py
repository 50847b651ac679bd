"""`eventml demo`: run the rides example, which the package contains, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated, Any, Final

import typer

from eventml.cli.buses import BackendOption
from eventml.cli.output import print_message
from eventml.errors import MissingExtraError

_PACKAGE: Final = Path(__file__).parents[1]
_NEEDED: Final = {"skops": "sklearn"}  # modules, and the extras that they are in
_PATIENCE: Final = 10.0  # seconds for redis-server to open its socket
_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


def demo(
    rides: Annotated[int, typer.Option(metavar="N", min=1, help="Rides to publish.")] = 20_000,
    rate: Annotated[float, typer.Option(metavar="N", min=1, help="Rides to publish a second.")] = 1_000,
    workers: Annotated[int, typer.Option(metavar="N", min=2, help="Worker processes.")] = 2,
    backend: BackendOption = None,
) -> None:
    """Watch a service that loses a worker and gets bad events.

    Taxi rides are published to two predictors; meanwhile a worker is killed, and bad rides are sent. In the
    end every ride is counted. Without --backend it starts a Redis of its own if redis-server is on PATH, and
    else runs in memory, in one process.
    """
    for module, extra in _NEEDED.items():
        if find_spec(module) is None:
            raise MissingExtraError(extra, "`eventml demo`")
    for name in _SIGNALS:
        if number := getattr(signal, name, None):
            signal.signal(number, _exit)
    with TemporaryDirectory(prefix="eventml-") as folder, _broker(backend, Path(folder)) as url:
        found = [
            place / "examples" for place in (_PACKAGE, _PACKAGE.parents[1]) if (place / "examples").is_dir()
        ]
        shutil.copytree(found[0], Path(folder, "examples"), ignore=shutil.ignore_patterns("__pycache__"))
        options = {"--events": rides, "--rate": rate, "--workers": workers, "--bad": 200}
        words = [str(word) for option in options.items() for word in option]
        # The settings of the user's own apps are left out. A list of processes does not show this one.
        environment = {name: text for name, text in os.environ.items() if not name.startswith("EVENTML_")}
        environment |= {"EVENTML_BACKEND": url, "TMPDIR": folder}
        command = [sys.executable, "-m", "examples.rides.demo", *words]
        with _process(command, cwd=folder, env=environment) as example:
            status = example.wait()
    raise typer.Exit(status)


def _exit(number: int, _frame: FrameType | None) -> None:
    """End the command after a signal: what it has started ends too, and its folder is deleted."""
    for name in _SIGNALS:  # a second one must not interrupt that
        if other := getattr(signal, name, None):
            signal.signal(other, lambda *_: None)  # not SIG_IGN, which a new process would inherit
    raise SystemExit(128 + number)


@contextmanager
def _process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process. It is terminated if it still runs at the end of the block."""
    process = subprocess.Popen(command, **options)  # noqa: S603 - the example, or redis-server
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _broker(backend: str | None, folder: Path) -> Iterator[str]:
    """Yield the URL of a backend: the given one, a Redis on a socket in the folder, or `memory://`."""
    program, socket = shutil.which("redis-server"), folder / "redis.sock"
    if backend or program is None or find_spec("redis") is None:
        yield backend or "memory://"
        return
    command = [program, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""]
    with _process(command, stdout=subprocess.DEVNULL, start_new_session=True) as redis:
        patience = time.monotonic() + _PATIENCE
        while redis.poll() is None and not socket.exists() and time.monotonic() < patience:
            time.sleep(0.02)
        if socket.exists():
            yield f"unix://{socket}?lease=5"  # seconds after which events of the killed worker are claimed
            return
    print_message(f"{program} opens no socket at {socket}; running in memory instead", "warning")
    yield "memory://"
