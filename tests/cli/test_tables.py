"""Tables: aligned, whole, and as wide as the terminal at most if they can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from eventml.cli.output import format_table, print_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CELLS = st.text(max_size=40)
NAMES = ["handler", "group", "topic", "lag"]
ROWS = st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), max_size=5)


def test_columns_are_aligned_and_numbers_to_the_right() -> None:
    rows = [["long" * 20, "1,234", "≤25ms"], ["b", "-", ">300s"], ["日本", "7", "-"]]
    assert format_table(["a", "lag", "p50"], rows) == [
        f"a{' ' * 79}    lag    p50",
        f"{'long' * 20}  1,234  ≤25ms",
        f"b{' ' * 79}      -  >300s",
        f"日本{' ' * 76}      7      -",
    ]


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\nb", "\u202e"])
def test_a_row_is_one_line_of_printable_text(hostile: str) -> None:
    lines = format_table(["id"], [[hostile]])
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


@given(ROWS, st.integers(10, 200))
def test_no_cell_is_cut_and_the_least_important_columns_leave_first(
    rows: list[tuple[str, ...]], width: int
) -> None:
    least = ["group", "topic"]
    lines, whole = format_table(NAMES, rows, least, width), format_table(NAMES, rows)
    if not rows or max(map(cell_len, whole)) <= width:
        assert lines == whole
        return
    tables = [(out, format_table([n for n in NAMES if n not in out],
               [[c for n, c in zip(NAMES, row, strict=True) if n not in out] for row in rows]))
              for out in ([], ["group"], ["group", "topic"])]  # fmt: skip
    fitting = [(out, table) for out, table in tables if max(map(cell_len, table)) <= width]
    if fitting:
        out, table = fitting[0]
        assert lines[: len(table)] == table
        assert " ".join(lines[len(table) :]) == f"left out, to fit {width} columns: {', '.join(out)}"
    else:
        assert [line.split("  ")[0] for line in lines if line] == NAMES * len(rows), "a line for each cell"


def test_a_table_is_plain_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["handler", "lag"], [["h" * 300, "7"]], ["lag"])
    assert capsys.readouterr().out == f"handler{' ' * 293}  lag\n{'h' * 300}    7\n"


APP = """
import eventml
bus = eventml.Bus("rides")
@bus.predictor("rides.started.of.all.the.cities", to="rides.duration.of.all.the.cities")
def duration(n: int) -> int: return n
"""


@pytest.mark.parametrize(("columns", "whole"), [(80, False), (160, True)])
def test_check_on_a_terminal(
    folder: Path, on_terminal: Callable[..., str], columns: int, whole: bool
) -> None:
    (folder / "app.py").write_text(APP)
    shown = on_terminal("check", "app:bus", columns=columns)
    assert max(map(len, shown.splitlines())) <= columns
    assert "rides.started.of.all.the.cities" in shown
    assert ("left out, to fit 80 columns: takes, group, writes" in shown) == (not whole)
    assert ("rides.duration.of.all.the.cities" in shown) == whole


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_is_heeded(folder: Path, on_terminal: Callable[..., str], no_color: str) -> None:
    (folder / "app.py").write_text(APP + "\n@bus.consumer('b')\ndef two(n: int, model) -> None: ...\n")
    env = {"NO_COLOR": no_color} if no_color else {}
    shown = on_terminal("check", "app:nothing", raw=True, **env)
    assert "error: " in shown
    assert ("\x1b[1;31m" in shown) == (not no_color), "red"
    assert "\x1b[3" not in shown or not no_color
