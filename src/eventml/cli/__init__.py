"""The command line, `eventml`: one module for each command, put together in `app.py`.

Shared modules: `buses.py` finds the bus that a command works with, `output.py` prints, and `workers.py` runs
what `run` and `serve` deploy. `eventml lag` is in `topics.py`, `eventml ui` in `top.py`, `eventml replay` and
`eventml canary` in `compare.py`, and `eventml schema` in `check.py`, which compares its documents by
`compatibility.py`. This package may import all others.

Exit status: 0 for done, or stopped by a signal; 1 for a failure, described on standard error; 2 for a command
line that makes no sense: an unknown option, no such module, a bus that lives in another process.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from eventml.deploy.workers import force_exit_later, make_errors_printable


def main() -> None:
    """Run the command that the arguments name, and exit with its status even if a thread hangs."""
    if os.getpid() == 1:
        _continue_in_child()
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed (`>&-`): the next file or socket would get its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, closefd=False))
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # as standard error is
    make_errors_printable()  # before typer is imported, which keeps the exception hook that it finds
    from eventml.cli.app import app  # noqa: PLC0415 - importing this package must not need typer

    try:
        if undecoded := [text for text in sys.argv if text.encode(errors="ignore").decode() != text]:
            encoding = sys.getfilesystemencoding()
            sys.stderr.write(f"error: {undecoded[0]!a} is not text in {encoding}, the locale's encoding\n")
            sys.exit(2)
        app(prog_name="eventml")
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        sys.exit(f"error: {exc}")  # the disk of the output, perhaps
    except SystemExit as exc:
        force_exit_later(exc.code if isinstance(exc.code, int) else int(exc.code is not None))
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # closed or full; Python would fail at exit to flush it again
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _continue_in_child() -> None:
    """Return in a child, while process 1 of a container, as an init, forwards signals and reaps orphans.

    The kernel gives it all orphans, such as those of a killed worker, and it can wait for them without taking
    the children of `subprocess` and asyncio only if it runs nothing else. And the kernel drops the signals
    that process 1 does not handle, such as SIGTERM while the app is imported.
    """
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCHLD")
    received = {getattr(signal, name) for name in names}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it was inherited as ignored, no child could be awaited
    signal.pthread_sigmask(signal.SIG_BLOCK, received)
    child = os.fork()
    while child:
        found = signal.sigwaitinfo(received)
        if found.si_signo != signal.SIGCHLD and found.si_code <= 0:  # a terminal signals the child itself
            os.kill(child, found.si_signo)
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                status = os.waitstatus_to_exitcode(ended[1])
                os._exit(status if status >= 0 else 128 - status)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, received)
