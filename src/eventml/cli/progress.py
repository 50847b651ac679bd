"""A progress bar, on a terminal only."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from eventml.cli.output import stderr_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def showing(total: int | None, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on standard error; yields what moves it: `moved(bytes read, events published)`.

    Args:
        total: All the bytes there are; None is "not known".
        quiet: Draw none, terminal or not.
    """
    console = stderr_console()
    if quiet or not console.is_terminal:
        yield lambda _read, _events: None
        return
    columns = (BarColumn(), TextColumn("{task.fields[events]:,} events, {task.fields[speed]:,.0f}/s"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=total, events=0, speed=0)

        def moved(read: int, events: int) -> None:
            elapsed = progress.tasks[0].elapsed
            progress.update(task, completed=read, events=events, speed=events / elapsed if elapsed else 0)

        yield moved
