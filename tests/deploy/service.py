"""`eventml run ... --workers` in a process of its own, and its life seen from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APPS = Path(__file__).with_name("apps")
ROOT = Path(__file__).parents[2]


class Service:
    """A supervisor and its workers.

    Args:
        log: Where its standard error goes.
        options: Those of the command.
        app: MODULE:BUS.
        env: Variables for the app.
        command: `run` or `serve`.
        apps: The folder that the module is in.
    """

    def __init__(
        self,
        log: Path,
        *options: str,
        app: str = "plain:bus",
        env: dict[str, str],
        command: str = "run",
        apps: Path = APPS,
    ) -> None:
        self.log = log
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "eventml", command, app, *options],
                cwd=apps,
                env={**os.environ, "PYTHONPATH": path, **env},
                stdin=subprocess.DEVNULL,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers."""
        return [pid for pid in children(self.pid) if "eventml.deploy.workers.worker_process" in command(pid)]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = 30.0) -> int:
        """Its exit status."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.text}") from None

    def stop(self, seconds: float = 30.0) -> int:
        self.send(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """End it and what is left of it."""
        orphans = self.workers
        self._process.kill()
        self._process.wait()
        for pid in orphans:
            if alive(pid) and "eventml.deploy.workers.worker_process" in command(pid):
                os.kill(pid, signal.SIGKILL)

    def until(self, what: Callable[[], object], seconds: float = 30.0) -> None:
        """Wait until something is true."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)

    def until_logged(self, pattern: str, times: int = 1) -> None:
        self.until(lambda: len(re.findall(pattern, self.text)) >= times)

    def until_ready(self) -> None:
        self.until_logged("operations port: ")
        self.until(lambda: self.get("/readyz")[0] == 200)

    def get(self, path: str) -> tuple[int, str]:
        """Ask its operations port, once it is there."""
        found = re.search(r"http://([0-9.]+:\d+)/readyz", self.text)
        assert found is not None, self.text
        try:
            with urllib.request.urlopen(f"http://{found[1]}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        return sum(
            value for sample, value in samples(self.get("/metrics")[1]) if _matches(sample, name, labels)
        )


def samples(text: str) -> Iterator[tuple[str, float]]:
    """Each sample with its labels as they stand, and its value."""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            yield sample, float(value)


def _matches(sample: str, name: str, labels: dict[str, str]) -> bool:
    found, _, said = sample.partition("{")
    return found == name and all(f'{label}="{value}"' in said for label, value in labels.items())


def children(pid: int) -> list[int]:
    """The processes that a process has started, from any of its threads."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
