"""What `eventml score` shows: a progress bar with rate and time left, and the summary."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from eventml.cli.output import stderr_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventml.deploy.batch import job


@contextmanager
def showing() -> Iterator[Callable[[job.Progress], None] | None]:
    """Draw a bar on standard error, on a terminal only; yields what moves it."""
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
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None, rows=0, rate=0)

        def moved(come: job.Progress) -> None:
            elapsed = progress.tasks[0].elapsed
            rate = (come.rows - come.resumed) / elapsed if elapsed else 0
            progress.update(task, total=come.total, completed=come.done, rows=come.rows, rate=rate)

        yield moved


def describe(summary: job.Summary) -> str:
    """The summary in a line."""
    counts = [
        f"{summary.written:,} predictions written to {summary.target}",
        summary.repeated and f"{summary.repeated:,} rows were there already",
        summary.silent and f"{summary.silent:,} without an output",
        summary.rejected and f"{summary.rejected:,} rejected: see {summary.rejects}",
        summary.resumed and f"{summary.resumed:,} of the rows were done by an earlier run",
    ]
    state = "" if summary.state == "finished" else "stopped: "
    model = f", model {summary.model} {summary.model_version}" if summary.model else ""
    pace = f"({summary.seconds:g} s, {summary.rows_per_second:,.0f} rows/s)"
    return (
        f"{state}{summary.predictor}{model}: {summary.read:,} rows of {summary.source}; "
        f"{'; '.join(text for text in counts if text)} {pace}"
    )
