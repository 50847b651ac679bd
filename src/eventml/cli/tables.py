"""Tables of the commands: on a terminal the columns that fit, in a pipe or a file all of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import compress
from textwrap import wrap
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from eventml.cli.output import print_styled
from eventml.printable import printable

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
