"""Output of the commands: text, tables, JSON, errors with an exit status, progress bars and the log."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from io import StringIO
from itertools import compress
from select import select
from textwrap import wrap
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from eventml.deploy.workers import BREAKER_OPEN, start_service_logging
from eventml.errors import AppNotFoundError, CircuitBreakerError, EventMLError, JobRunningError
from eventml.printable import printable, printable_json, printable_lines
from eventml.runtime import leaves

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, to be read by a program.")]

INTERRUPTED: Final = 130
"""The exit status of a shell for a command that SIGINT has ended."""

JOB_RUNNING: Final = 75
"""The exit status of a command that may succeed later: EX_TEMPFAIL of sysexits.h."""

_STYLES: Final = {"error": "bold red", "warning": "yellow"}


class UsageError(Exception):
    """The command line cannot be carried out as it was written. The exit status is 2."""


def print_errors(error: Exception) -> int:
    """Print the errors of eventml inside an error, a line each, and return the exit status of the command.

    Raises:
        Exception: an error inside it that is a bug, of eventml or of the app, with its traceback.
    """
    errors = expected_errors(error)
    for message in dict.fromkeys(map(str, errors)):
        print_message(message, "error")
    if any(isinstance(one, JobRunningError) for one in errors):
        return JOB_RUNNING
    if any(isinstance(one, CircuitBreakerError) for one in errors):
        return BREAKER_OPEN
    return 2 if all(isinstance(one, UsageError | AppNotFoundError) for one in errors) else 1


def expected_errors(error: BaseException) -> list[BaseException]:
    """Return the errors of eventml inside an exception group, at any depth; task groups raise such groups.

    Raises:
        BaseException: one that is not eventml's.
    """
    errors = leaves(error)
    for one in errors:
        if not isinstance(one, EventMLError | UsageError):
            raise one
    return errors


def print_message(text: str, label: str = "") -> None:
    """Print a line to standard error, after a label such as "error" or "warning". More lines are indented."""
    text = printable_lines(text)
    _print_line(Text.assemble((f"{label}: ", _STYLES.get(label, "")), text) if label else Text(text))


def _print_line(line: Text) -> None:
    with suppress(OSError, SystemExit):  # nobody can read it; rich would exit with a status of its own
        stderr_console().print(line, soft_wrap=True, highlight=False)


@cache
def stderr_console() -> Console:
    """Return the only console on standard error: a progress bar is redrawn below what others print there."""
    return Console(stderr=True)


def start_logging(*, json: bool = False) -> None:
    """Log to standard error as `start_service_logging` does, in colours if it is a terminal."""
    terminal = not json and stderr_console().is_terminal
    start_service_logging("worker", json=json, to=_TerminalHandler() if terminal else None)


class _TerminalHandler(logging.Handler):
    """Writes log lines above a progress bar, warnings and errors in colour."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _print_line(Text(self.format(record), _STYLES.get(record.levelname.lower(), "")))
        except Exception:  # noqa: BLE001 - a log call must not raise: its text and arguments may not fit
            self.handleError(record)


@contextmanager
def progress_bar(unit: str, *, hidden: bool = False) -> Iterator[Callable[[float | None, float, int], None]]:
    """Draw a progress bar on standard error if that is a terminal and `hidden` is not set.

    Yields the function that moves it, which takes the total (None if it is not known), how much of it is
    done, and the number of units (whose name is `unit`) done since the start.
    """
    if hidden or not stderr_console().is_terminal:
        yield lambda _total, _done, _count: None
        return
    counts = TextColumn(f"{{task.fields[count]:,}} {unit}")
    columns = (BarColumn(), counts, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr_console()) as bar:
        task = bar.add_task("", total=None, count=0)
        yield lambda total, done, count: bar.update(task, total=total, completed=done, count=count)


def print_text(text: str) -> None:
    """Print lines of text to standard output, made printable; untrusted text must be in one line each."""
    typer.echo(printable(text, keep="\n\t"))


def print_styled(*lines: RenderableType) -> None:
    """Print printable text to standard output, in its styles if that is a terminal. Lines are not wrapped."""
    Console().print(*lines, sep="\n", soft_wrap=True)


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return Console().is_terminal


def redraw(render: Callable[[int], str | Text], every: float) -> None:
    """Show text on the whole terminal, rendered for its width every so many seconds, until `q` or SIGINT."""
    console = Console()
    with (
        suppress(KeyboardInterrupt),
        _keys() as key,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            due = time.monotonic() + every
            live.update(Text.assemble(render(console.width), no_wrap=True), refresh=True)
            while (pressed := key(due - time.monotonic())) is not None:
                if pressed in ("q", ""):  # nothing more can be read
                    return


@contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """Read keys as they are pressed: yields a function that waits so long for one."""
    try:
        import termios  # noqa: PLC0415 - Windows has no such module
        import tty  # noqa: PLC0415 - as above

        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except Exception:  # noqa: BLE001 - of termios, which may be missing: standard input is no terminal
        yield lambda wait: time.sleep(max(wait, 0))
        return
    try:
        tty.setcbreak(terminal)
        yield lambda wait: (  # not of `sys.stdin`, which would keep a second key
            os.read(terminal, 1).decode(errors="replace")
            if select([terminal], [], [], max(wait, 0))[0]
            else None
        )
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def to_html(text: str) -> str:
    """Return a page of HTML that shows a text as a terminal does."""
    page = Console(record=True, file=StringIO())
    page.print(Text(text), soft_wrap=True)
    return page.export_html()


def print_json(value: Any, *, indented: bool = False) -> None:
    """Print a value to standard output as JSON, exact and printable: in one line, or in indented ones."""
    encoded = msgspec.json.encode(value)
    for line in msgspec.json.format(encoded, indent=2).splitlines() if indented else [encoded]:
        typer.echo(printable_json(line))


_NUMBER: Final = re.compile(r"[≤>]?[\d,.]+(ms|s|MB)?|-|\?|unknown")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], least: Sequence[str] = ()) -> None:
    """Print a table to standard output, whose columns in `least` may be left out, the first one first."""
    width = Console().width if sys.stdout.isatty() else None
    head, *lines = format_table(columns, rows, least, width)
    print_styled(Text(head, "bold"), *map(Text, lines))


def format_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], least: Sequence[str] = (), width: int | None = None
) -> list[str]:
    """Return the lines of a table. No cell is ever cut; numbers are aligned to the right.

    Where it is wider than `width`, columns in `least` are left out, the first one first, and a last line
    names them. If that is not enough, each row is printed as lines of a column and its cell.
    """
    cells = [[printable(cell) for cell in line] for line in (columns, *rows)]
    for count in range(len(least) + 1):
        kept = [name not in least[:count] for name in columns]
        lines = _align([list(compress(line, kept)) for line in cells])
        if not rows or width is None or max(map(cell_len, lines)) <= width:
            left_out = [name for name in least[:count] if name in columns]
            note = f"left out, to fit {width} columns: {', '.join(left_out)}"
            return [*lines, *wrap(note, width)] if left_out and width else lines
    head, *body = cells
    blocks = [[[name, cell] for name, cell in zip(head, row, strict=True)] for row in body]
    return [line for block in blocks for line in (*_align(block), "")][:-1]


def _align(lines: Sequence[Sequence[str]]) -> list[str]:
    padded = []
    for column in zip(*lines, strict=True):
        width = max(map(cell_len, column))
        numeric = len(column) > 1 and all(map(_NUMBER.fullmatch, column[1:]))
        spaces = [" " * (width - cell_len(cell)) for cell in column]
        padded.append([s + c if numeric else c + s for s, c in zip(spaces, column, strict=True)])
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]
