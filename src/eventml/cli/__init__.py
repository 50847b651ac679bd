"""The command line: `eventml`, one module a command.

0  done, or stopped as asked
1  something failed; standard error says what
2  what was asked makes no sense: an unknown option, no such module, a bus that lives in another process
"""

from __future__ import annotations

from eventml.deploy.workers import force_exit_later


def main() -> None:
    """Run a command and leave the process with its exit status, even if a thread hangs."""
    from eventml.cli.app import app  # noqa: PLC0415 - whoever imports the package need not have typer

    try:
        app(prog_name="eventml")
    except SystemExit as exc:
        force_exit_later(exc.code if isinstance(exc.code, int) else int(exc.code is not None))
        raise
