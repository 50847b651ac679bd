"""A server process that ends with this process, and free ports for it."""

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
"""Seconds between two checks of a server that is starting."""

# Below every ephemeral range (Linux 32768, others 49152): an ephemeral port may be taken by a client's
# connection while its server restarts, and a client that retries may even connect to itself.
PORTS: Final = range(20_000, 32_000)

LEASH: Final = Path(__file__).with_name("leash.py")

# The kernel kills the child when its parent thread ends, so that thread must live as long as this process.
_spawner: Final = ThreadPoolExecutor(1, thread_name_prefix="spawn-servers")


class NotInstalledError(RuntimeError):
    """A program that the server needs is not installed. The message says what to install."""


class StartError(RuntimeError):
    """A server did not start. The message holds the end of its log."""


class ServerProcess:
    """One server in its own session (Ctrl-C does not reach it), with its output in a file.

    On Linux it is killed when this process ends, for whatever reason.

    Args:
        argv: The program (a path, or a name on PATH) and its arguments.
        log: File that its output is appended to.
    """

    def __init__(self, argv: Sequence[str], *, log: Path) -> None:
        self.log = log
        self._process = _spawner.submit(_spawn, argv, log).result()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.returncode is None

    @property
    def returncode(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended. SIGSTOP and SIGCONT simulate a server that hangs."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM, and SIGCONT so that a stopped process (SIGSTOP) receives it."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)

    def wait(self, *, grace: float) -> bool:
        """Wait until it ends; kill it after `grace` seconds. Returns whether it ended by itself."""
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def kill(self) -> None:
        """Send SIGKILL and wait until it has ended."""
        self._process.kill()
        self._process.wait()

    def wait_until(self, ready: Callable[[], bool], *, timeout: float, what: str) -> None:
        """Wait until `ready()` returns true; OSError counts as false. Kill the process if that fails.

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
        return subprocess.Popen(  # noqa: S603 - the caller chooses the program
            [*leash, *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a file, or a note that it does not exist."""
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
    """Check a port before a start, so that another server's answers are not mistaken for this one's.

    Raises:
        StartError: the port is in use.
    """
    if not is_free(port):
        raise StartError(f"port {port} is in use on {LOOPBACK}; choose another, or 0 for any free one")


def free_ports() -> Iterator[int]:
    """Free loopback ports, each once. Another process may still take one first."""
    ports = random.SystemRandom().sample(
        PORTS, len(PORTS)
    )  # not seeded: two runs with one seed must not choose the same
    for port in ports:
        if is_free(port):
            yield port
