"""The progress bars of `eventml publish` and `eventml score`, drawn on standard error if it is a terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from eventml.cli.output import stderr_console
from eventml.deploy.batch import ScoreProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def publish_progress(total: int | None, *, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar; yields the function that moves it: `update(bytes_read, events_published)`.

    Args:
        total: Bytes to read; None if that is not known.
        hidden: Draw none, terminal or not.
    """
    console = stderr_console()
    if hidden or not console.is_terminal:
        yield lambda _bytes_read, _events: None
        return
    columns = (BarColumn(), TextColumn("{task.fields[events]:,} events, {task.fields[rate]:,.0f}/s"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("", total=total, events=0, rate=0)

        def update(bytes_read: int, events: int) -> None:
            elapsed = bar.tasks[0].elapsed
            bar.update(task, completed=bytes_read, events=events, rate=events / elapsed if elapsed else 0)

        yield update


@contextmanager
def score_progress() -> Iterator[Callable[[ScoreProgress], None] | None]:
    """Draw a bar; yields the function that moves it, or None if standard error is no terminal."""
    console = stderr_console()
    if not console.is_terminal:
        yield None
        return
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, rows=0, rate=0)

        def update(now: ScoreProgress) -> None:
            elapsed = bar.tasks[0].elapsed
            rate = (now.rows - now.resumed) / elapsed if elapsed else 0
            bar.update(task, total=now.total, completed=now.done, rows=now.rows, rate=rate)

        yield update
