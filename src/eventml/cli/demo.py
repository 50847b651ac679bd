"""`eventml demo`: run the rides example, which the package contains, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final

import typer

from eventml.cli.buses import BackendOption
from eventml.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE: Final = Path(__file__).parents[1]
_NEEDED: Final = {
    "skops": "sklearn",
    "prometheus_client": "metrics",
}  # modules, and the extras that they are in


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
        ended = subprocess.run(command, cwd=folder, env=environment, check=False)  # noqa: S603 - the example
    raise typer.Exit(ended.returncode)


@contextmanager
def _broker(backend: str | None, folder: Path) -> Iterator[str]:
    """Yield the URL of a backend: the given one, a Redis on a socket in the folder, or `memory://`."""
    program, socket = shutil.which("redis-server"), folder / "redis.sock"
    if backend or program is None or find_spec("redis") is None:
        yield backend or "memory://"
        return
    command = [program, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""]
    redis = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    try:
        while redis.poll() is None and not socket.exists():
            time.sleep(0.02)
        yield f"unix://{socket}?lease=5"  # after so many seconds the events of the killed worker are claimed
    finally:
        redis.terminate()
        redis.wait()
