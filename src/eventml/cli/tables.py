"""Tables: drawn on a terminal, plain aligned columns elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output."""
    console = Console()
    if not console.is_terminal:
        typer.echo(plain_table(columns, rows))
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a topic's name is not markup
    console.print(table)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as text: a line a row, columns two spaces apart, nothing cut or wrapped."""
    lines = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
