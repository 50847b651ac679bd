"""The command line, `eventml`: one module for each command, put together in `app.py`.

Shared modules: `buses.py` finds the bus that a command works with, `output.py` prints, and `workers.py` runs
what `run` and `serve` deploy. `eventml lag` is in `topics.py`. This package may import all others.

Exit status: 0 for done, or stopped by a signal; 1 for a failure, described on standard error; 2 for a
command line that makes no sense: an unknown option, no such module, a bus that lives in another process.
"""

from __future__ import annotations

from eventml.deploy.workers import force_exit_later, make_errors_printable


def main() -> None:
    """Run the command that the arguments name, and exit with its status even if a thread hangs."""
    make_errors_printable()  # before typer is imported, which keeps the exception hook that it finds
    from eventml.cli.app import app  # noqa: PLC0415 - importing this package must not need typer

    try:
        app(prog_name="eventml")
    except SystemExit as exc:
        force_exit_later(exc.code if isinstance(exc.code, int) else int(exc.code is not None))
        raise
