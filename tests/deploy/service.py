"""`eventml run` or `serve` in a process of its own, observed from outside."""

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
WORKER = "eventml.deploy.workers.worker_process"


class Service:
    """A supervisor and its workers.

    Args:
        log: File for its standard error.
        options: Options of the command.
        app: Import path of the bus, MODULE:BUS.
        env: Environment variables for the app.
        command: `run` or `serve`.
        apps: Folder of the module.
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
        """Process id of the supervisor."""
        return self._process.pid

    @property
    def text(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="replace")

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [pid for pid in children(self.pid) if WORKER in command_line(pid)]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        self._process.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        """Wait for the end, and return the exit status."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.text}") from None

    def stop(self, seconds: float = 60.0) -> int:
        """Send SIGTERM, wait for the end, and return the exit status."""
        self.send(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """Kill the supervisor and all workers that are left."""
        orphans = self.workers
        self._process.kill()
        self._process.wait()
        for pid in orphans:
            if alive(pid) and WORKER in command_line(pid):
                os.kill(pid, signal.SIGKILL)

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait until a condition is true."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)

    def until_logged(self, pattern: str, times: int = 1) -> None:
        """Wait until a pattern has been logged."""
        self.until(lambda: len(re.findall(pattern, self.text)) >= times)

    def until_ready(self) -> None:
        """Wait until all workers are ready."""
        self.until_logged("operations port: ")
        self.until(lambda: self.get("/readyz")[0] == 200)

    def get(self, path: str) -> tuple[int, str]:
        """Get a path of the operations port: status and body."""
        found = re.search(r"http://([0-9.]+:\d+)/readyz", self.text)
        assert found is not None, self.text
        try:
            with urllib.request.urlopen(f"http://{found[1]}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        return sum(
            value for sample, value in samples(self.get("/metrics")[1]) if _matches(sample, name, labels)
        )


def samples(text: str) -> Iterator[tuple[str, float]]:
    """Yield each sample of Prometheus' text format, with its labels, and its value."""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            yield sample, float(value)


def _matches(sample: str, name: str, labels: dict[str, str]) -> bool:
    found, _, text = sample.partition("{")
    return found == name and all(f'{label}="{value}"' in text for label, value in labels.items())


def children(pid: int) -> list[int]:
    """Return the child processes of a process, started by any of its threads."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


def command_line(pid: int) -> str:
    """Return the command line of a process; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
