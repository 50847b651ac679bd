"""A server process that does not outlive us, and ports for it."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LOOPBACK: Final = "127.0.0.1"
POLL: Final = 0.02
"""Seconds between two looks at a server that is starting."""

# Below every ephemeral range (Linux 32768, others 49152): a port there may be taken by a client's
# connection while its server restarts, and a client that keeps trying may even connect to itself.
PORTS: Final = range(20_000, 32_000)

LEASH: Final = Path(__file__).with_name("leash.py")

# The kernel ties a child to the thread that started it, so that thread has to last as long as we do.
_spawner: Final = ThreadPoolExecutor(1, thread_name_prefix="spawn-servers")


class NotInstalledError(RuntimeError):
    """A program that the server needs is not on this machine. The message says what to install."""


class StartError(RuntimeError):
    """A server did not start. The message holds the end of its log."""


class ServerProcess:
    """One server, in a session of its own (Ctrl-C does not reach it), its output in a file.

    On Linux it is killed when this process ends, however it ends.

    Args:
        argv: The program, found on PATH unless it is a path, and its arguments.
        log: Where its output goes, appended.
    """

    def __init__(self, argv: Sequence[str], *, log: Path) -> None:
        self.log = log
        self._process = _spawner.submit(_spawn, argv, log).result()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self.returncode is None

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended. SIGSTOP and SIGCONT make a server that hangs and recovers."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to end; one that was stopped (SIGSTOP) has to go on for that."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)

    def wait(self, *, grace: float) -> bool:
        """Wait for its end, after `grace` seconds by SIGKILL. True if it ended by itself."""
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def wait_until(self, ready: Callable[[], bool], *, timeout: float, what: str) -> None:
        """Wait until `ready()`, which may raise OSError for "not yet"; else kill it.

        Raises:
            StartError: it ended, or was not ready in `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while self.running and time.monotonic() < deadline:
            try:
                if ready():
                    return
            except OSError:
                pass
            time.sleep(POLL)
        ended = self.returncode
        self.kill()
        why = f"was not ready within {timeout:g} s" if ended is None else f"ended with status {ended}"
        raise StartError(f"{what} {why}; the end of {self.log}:\n{tail(self.log)}")


def _spawn(argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid())]
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - the caller says which program to run
            [*leash, *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a file, or that there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no such file)"


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def require_free(port: int) -> None:
    """Check before a start, so that no answer of somebody else's server is taken for ours.

    Raises:
        StartError: somebody listens there.
    """
    if not is_free(port):
        raise StartError(f"port {port} is in use on {LOOPBACK}; choose another, or 0 for any free one")


def free_ports() -> Iterator[int]:
    """Free loopback ports, no one twice. Nothing keeps another process from taking one first."""
    ports = random.SystemRandom().sample(PORTS, len(PORTS))  # a seeded run must not meet its twin
    for port in ports:
        if is_free(port):
            yield port
