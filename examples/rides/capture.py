"""Makes `top.txt` and `logs.txt` of docs/deployment, from a service of the rides example that loses a worker.

Run it as `python -m examples.rides.capture`. It needs redis-server on PATH, and takes a minute.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.request import urlopen

from backends.redis.server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parents[2] / "docs" / "deployment"
PORT = "9477"
EVENTML = (sys.executable, "-m", "eventml")
BUS = "examples.rides.app:bus"


def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds, for a minute at most."""
    deadline = time.monotonic() + 60
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.2)


def is_ready() -> bool:
    """Return whether the service is ready."""
    try:
        with urlopen(f"http://127.0.0.1:{PORT}/readyz") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main() -> None:
    """Run the service, and write both files."""
    with RedisServer() as server, TemporaryDirectory() as folder:
        rides, log = Path(folder, "rides.jsonl"), Path(folder, "log.txt")
        env = {**os.environ, "EVENTML_BACKEND": server.url, "RIDES_MODELS": str(Path(folder, "models"))}
        export = [sys.executable, "-m", "examples.rides.export", str(rides), "--events", "90000"]
        subprocess.run(export, env=env, check=True)  # noqa: S603 - ours
        subprocess.run([sys.executable, "-m", "examples.rides.train"], env=env, check=True)
        workers = ("--workers", "duration=2,tip=1,alarm=1", "--operations", PORT)
        publish = [*EVENTML, "publish", "rides.started", str(rides), "--rate", "1500"]
        with (
            log.open("wb") as written,
            subprocess.Popen([*EVENTML, "run", BUS, *workers], env=env, stderr=written) as service,  # noqa: S603
        ):
            until(is_ready)
            with subprocess.Popen(publish, env=env) as publisher:  # noqa: S603 - ours
                time.sleep(3)
                children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
                os.kill(int(children[0]), signal.SIGKILL)
                until(lambda: log.read_text().count("INFO ready: duration") == 3)
                time.sleep(3)
                top = [*EVENTML, "top", BUS, "--at", PORT, "--once"]
                shown = subprocess.run(top, env=env, check=True, capture_output=True, text=True).stdout  # noqa: S603
                service.send_signal(signal.SIGHUP)
                until(lambda: "all workers have been replaced" in log.read_text())
                publisher.terminate()
            service.terminate()
        (DOCS / "top.txt").write_text(shown)
        (DOCS / "logs.txt").write_text(log.read_text())


if __name__ == "__main__":
    main()
