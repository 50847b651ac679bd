"""Makes the captures of every command in docs/captures, at 80 and 160 columns, and docs/graph.svg.

Run it as `python -m examples.rides.capture`. It runs the rides example as a service that loses a worker, with
bad events, and each command on a terminal of its own. It needs redis-server on PATH, and takes minutes.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from urllib.request import urlopen

from backends.process import free_ports
from backends.redis.server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT: Final = Path(__file__).parents[2]
BUS: Final = "examples.rides.app:bus"
EVENTML: Final = (sys.executable, "-m", "eventml")
BEFORE: Final = {  # captures by name, before the service is started
    "help": "--help",
    "init": "init shop_COLUMNS",
    "doctor": "doctor examples.rides.app:duration --rows few.jsonl",
    "check": f"check {BUS}",
    "schema": f"schema {BUS}",
    "graph": f"graph {BUS}",
    "graph-mermaid": f"graph {BUS} --format mermaid",
    "topics-create": f"topics create {BUS}",
    "score": "score examples.rides.app:duration --from few.jsonl --to durations-COLUMNS.csv",
    "serve": f"serve {BUS} --port PORT",
}
RUNNING: Final = {
    "top": f"top {BUS} --at PORT --once",
    "lag": f"lag {BUS}",
    "tail": "tail rides.duration --from earliest -n 3",
    "replay": "replay examples.rides.app:duration --from 30s",
}
AFTER: Final = {
    "publish": "publish rides.started few.jsonl --id ride_id",
    "run": f"run {BUS} --until-idle 1",
    "dlq-list": f"dlq list {BUS}",
    "dlq-list-single": f"dlq list {BUS} -n 3",
    "dlq-show": f"dlq show {BUS} -n 1",
    "dlq-replay": f"dlq replay {BUS} -n 2",
    "dlq-drop": f"dlq drop {BUS} -n 2",
}


def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds, for a minute at most."""
    deadline = time.monotonic() + 60
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.2)


def is_ready(port: str) -> bool:
    """Return whether the service with this operations port is ready."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def on_terminal(command: str, columns: int, folder: Path, env: Mapping[str, str]) -> str:
    """Run a command on a terminal; return it and what it shows in the end. One that serves is stopped."""
    reading, writing = pty.openpty()
    termios.tcsetwinsize(writing, (50, columns))
    env = {**env, "COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen(  # noqa: S603 - ours
        [*EVENTML, *shlex.split(command)], cwd=folder, env=env, stdin=writing, stdout=writing, stderr=writing
    ) as process:
        os.close(writing)
        shown, stopped = b"", False
        with os.fdopen(reading, "rb", buffering=0) as terminal, suppress(OSError):  # EIO: it has ended
            while found := terminal.read(65_536):
                shown += found
                if b"serving on" in shown and not stopped:
                    stopped = True
                    process.terminate()
    text = re.sub(r"\x1b\[(?![12]?K)[?\d;]*[a-zA-Z]", "", shown.decode())
    lines = [re.split(r"\r|\x1b\[[12]?K", line.rstrip())[-1].rstrip() for line in text.split("\n")]
    return "\n".join([f"$ eventml {command}", *lines]).rstrip() + "\n"


class Captures:
    """Runs commands and writes what they show: `NAME-80.txt` and `NAME-160.txt` of each."""

    def __init__(self, to: Path, only: str | None, folder: Path, env: Mapping[str, str], port: str) -> None:
        self._to, self._folder, self._env, self._port = to, folder, env, port
        self._only = None if only is None else only.split(",")

    def write(self, commands: Mapping[str, str]) -> None:
        """Run commands, given by the names of their captures."""
        for name, command in commands.items():
            for columns in (80, 160) if self._only is None or name in self._only else ():
                filled = command.replace("PORT", self._port).replace("COLUMNS", str(columns))
                shown = on_terminal(filled, columns, self._folder, self._env)
                self.write_text(f"{name}-{columns}", shown)

    def write_text(self, name: str, text: str) -> None:
        """Write a capture."""
        (self._to / f"{name}.txt").write_text(text)


def main() -> None:
    """Run the service and the commands, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "docs", help="folder to write to (default: docs)")
    parser.add_argument("--events", type=int, default=180_000, help="rides to publish (default: 180000)")
    parser.add_argument("--only", metavar="NAME,...", help="names of captures to write (default: all)")
    options = parser.parse_args()
    captures = options.to / "captures"
    captures.mkdir(parents=True, exist_ok=True)
    with RedisServer() as server, TemporaryDirectory() as name:
        folder = Path(name)
        port = next(free_ports())
        path = os.pathsep.join([str(ROOT), *sys.path])
        env = {
            **os.environ,
            "EVENTML_BACKEND": server.url,
            "RIDES_MODELS": f"{name}/models",
            "PYTHONPATH": path,
        }
        env.pop("NO_COLOR", None)
        made = [("export", f"{name}/rides.jsonl", "--events", str(options.events)), ("train",)]
        for module, *args in made:
            command = [sys.executable, "-m", f"examples.rides.{module}", *args]
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
        rides = (folder / "rides.jsonl").read_text().splitlines(keepends=True)
        (folder / "few.jsonl").write_text("".join(rides[:2000]))
        capture = Captures(captures, options.only, folder, env, str(port))
        capture.write(BEFORE)
        (options.to / "graph.svg").write_bytes(
            subprocess.check_output([*EVENTML, "graph", BUS, "--format", "svg"], env=env)  # noqa: S603 - ours
        )
        serve(capture, folder, env, str(port))
        bad = b'{"ride_id": "r-%d"}\n'
        publish = [*EVENTML, "publish", "rides.started", "--id", "ride_id"]
        subprocess.run(  # noqa: S603 - ours
            publish, env=env, check=True, capture_output=True, input=b"".join(bad % n for n in range(5))
        )
        capture.write(AFTER)


def serve(capture: Captures, folder: Path, env: Mapping[str, str], port: str) -> None:
    """Run the service, which loses a worker, and the commands that look at it; its log is a capture too."""
    log = folder / "log.txt"
    workers = ("--workers", "duration=2,tip=1,alarm=1", "--operations", port)
    publish = [*EVENTML, "publish", "rides.started", str(folder / "rides.jsonl"), "--rate", "1500"]
    with (
        log.open("wb") as written,
        subprocess.Popen([*EVENTML, "run", BUS, *workers], env=env, stderr=written) as service,  # noqa: S603
    ):
        until(lambda: is_ready(port))
        with subprocess.Popen(publish, env=env, stderr=subprocess.DEVNULL) as publisher:  # noqa: S603 - ours
            time.sleep(3)
            children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGKILL)
            until(lambda: log.read_text().count("INFO ready: duration") == 3)
            time.sleep(3)
            capture.write(RUNNING)
            service.send_signal(signal.SIGHUP)
            until(lambda: "all workers have been replaced" in log.read_text())
            publisher.terminate()
        service.terminate()
    capture.write_text("logs", log.read_text())


if __name__ == "__main__":
    main()
