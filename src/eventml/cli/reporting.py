"""What a command says when it cannot do what was asked: a reason, and no traceback."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from eventml.errors import EventMLError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Refusal(Exception):  # noqa: N818 - an answer to the user, not an error of eventml's
    """What was asked makes no sense, whatever the state of the world: exit status 2."""


@contextmanager
def reporting() -> Iterator[None]:
    """Around a command: its expected failures become a line on standard error and an exit status.

    What is not eventml's own error is a defect, of ours or of the app, and keeps its traceback.
    """
    try:
        yield
    except Exception as exc:
        reasons = list(leaves(exc))
        if not all(isinstance(reason, EventMLError | Refusal) for reason in reasons):
            raise
        for text in dict.fromkeys(map(str, reasons)):
            say(text, "error")
        raise typer.Exit(2 if all(isinstance(reason, Refusal) for reason in reasons) else 1) from None


def say(text: str, kind: str = "") -> None:
    """Write a line to standard error. `kind` ("error", "warning") stands in front of it."""
    style = {"error": "bold red", "warning": "yellow"}.get(kind, "")
    line = Text.assemble((f"{kind}: ", style), text) if kind else Text(text)
    standard_error().print(line, soft_wrap=True, highlight=False)


@cache
def standard_error() -> Console:
    """The one console there: what draws on it (a progress bar) must know what else is written."""
    return Console(stderr=True)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside an exception group, however deep: task groups wrap what passes through them."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
