"""A worker's tie to its supervisor: orders come in, reports go out, and it does not outlive it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from eventml.deploy.workers.reports import Orders

if TYPE_CHECKING:
    from eventml.deploy.workers.reports import Report

_PR_SET_PDEATHSIG: Final = 1


class Lifeline:
    """Takes over standard input and output, for orders and reports; what the app prints goes to the log.

    On Linux the kernel kills this process (SIGKILL) when the supervisor ends, however it ends and
    whatever this process is doing. Elsewhere a thread sees its end and leaves at once, which a
    process that is stopped or holds Python's lock in foreign code cannot.

    Make one before anything else is done: it reads the orders.
    """

    def __init__(self) -> None:
        self._reports = os.dup(1)
        os.dup2(2, 1)
        os.set_blocking(self._reports, False)  # a supervisor that does not read must not hold us up
        self._unsent = b""
        self._commands = os.dup(0)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device, not a path
            os.dup2(nothing.fileno(), 0)
        self.orders = msgspec.json.decode(self._first_line(), type=Orders)
        _die_with(self.orders.supervisor)
        threading.Thread(target=self._await_end, name="supervisor's end", daemon=True).start()

    def report(self, report: Report) -> None:
        """Send a report, or none where the supervisor has not read those before it."""
        if not self._unsent:
            self._unsent = msgspec.json.encode(report) + b"\n"
        with suppress(BlockingIOError, BrokenPipeError):
            while self._unsent:
                self._unsent = self._unsent[os.write(self._reports, self._unsent) :]

    def _first_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(self._commands, 1)
            if not part:
                sys.exit("a worker is started by its supervisor: use `eventml run MODULE:BUS --workers N`")
            line += part
        return line

    def _await_end(self) -> None:
        while os.read(self._commands, 1024):
            pass
        os._exit(1)


def _die_with(supervisor: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it was gone before we asked
        os._exit(1)
