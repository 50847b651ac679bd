"""Server processes that do not outlive us, and the ports they get."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backends import process
from backends.process import ServerProcess, StartError

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(process.__file__).parents[1]
SLEEP = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # as servers do, so that a suspended one cannot obey
print("awake", flush=True)
time.sleep(600)
"""
SLEEPER = [sys.executable, "-c", SLEEP]


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody has collected yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20.0
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def sleeper(log: Path) -> ServerProcess:
    """A server that does nothing, past the leash: signals reach it and not the one who starts it."""
    child = ServerProcess(SLEEPER, log=log)
    child.wait_until(lambda: "awake" in process.tail(log), timeout=20.0, what="sleeper")
    return child


class TestServerProcess:
    def test_stops_when_asked(self, tmp_path: Path) -> None:
        child = sleeper(tmp_path / "log")
        child.terminate()
        assert child.wait(grace=20.0)
        assert not is_alive(child.pid)

    def test_is_killed_when_it_does_not_stop(self, tmp_path: Path) -> None:
        stubborn = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
        )
        child = ServerProcess([sys.executable, "-c", f"{stubborn}; time.sleep(600)"], log=tmp_path / "log")
        assert wait_for(lambda: "deaf" in process.tail(child.log))
        child.terminate()
        assert not child.wait(grace=0.1)
        assert not is_alive(child.pid)

    def test_stops_when_it_had_been_suspended(self, tmp_path: Path) -> None:
        child = sleeper(tmp_path / "log")
        child.send(signal.SIGSTOP)
        child.terminate()
        assert child.wait(grace=20.0)

    def test_says_why_it_did_not_start(self, tmp_path: Path) -> None:
        broken = [sys.executable, "-c", "raise SystemExit('the disk is full')"]
        child = ServerProcess(broken, log=tmp_path / "log")
        with pytest.raises(StartError, match=r"thing ended with status 1(.|\n)*the disk is full"):
            child.wait_until(lambda: False, timeout=20.0, what="thing")

    def test_is_killed_when_it_is_not_ready_in_time(self, tmp_path: Path) -> None:
        child = sleeper(tmp_path / "log")
        with pytest.raises(StartError, match=r"not ready within 0\.1 s"):
            child.wait_until(lambda: False, timeout=0.1, what="thing")
        assert not is_alive(child.pid)

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
    @pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 9)", "sys.exit()", "os.abort()"])
    def test_dies_with_us_however_we_end(self, tmp_path: Path, ending: str) -> None:
        script = f"""
import os, sys, threading
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from backends.process import ServerProcess, tail
children = []
def start(log):
    child = ServerProcess({SLEEPER!r}, log=log)
    child.wait_until(lambda: "awake" in tail(log), timeout=20.0, what="sleeper")
    children.append(child)
for n in range(2):  # the thread that asks may end: its server may not
    starter = threading.Thread(target=start, args=[Path(f"log-{{n}}")])
    starter.start()
    starter.join()
print(*[child.pid for child in children if child.running], flush=True)
sys.stdin.readline()
{ending}
"""
        with subprocess.Popen(  # noqa: S603 - a script of our own
            [sys.executable, "-W", "ignore", "-c", script],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as parent:
            assert parent.stdin
            assert parent.stdout
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert [is_alive(pid) for pid in pids] == [True, True]
            parent.stdin.write(b"\n")
        assert wait_for(lambda: not any(map(is_alive, pids)))


class TestPorts:
    def test_are_free_and_differ(self) -> None:
        ports = list(islice(process.free_ports(), 50))
        assert len(set(ports)) == 50
        assert all(port in process.PORTS for port in ports)

    def test_one_in_use_is_refused_by_number(self) -> None:
        with socket.create_server((process.LOOPBACK, 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(StartError, match=f"port {port} is in use"):
                process.require_free(port)
        process.require_free(port)
