"""Records what a command shows in a terminal, as an SVG that plays and loads nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

import pyte

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Style = tuple[str, bool]
"""Colour and whether it is bold."""
Row = tuple[tuple[str, Style], ...]
"""A row of a screen: texts of one style each."""
Frame = tuple[Row, ...]

COLOURS = {
    "default": "#d4d4d4",
    "black": "#5c6370",
    "red": "#f07178",
    "green": "#98c379",
    "brown": "#e5c07b",
    "blue": "#61afef",
    "magenta": "#c678dd",
    "cyan": "#56b6c2",
    "white": "#ffffff",
}
WIDTH, HEIGHT, SIZE, PAD = 8.4, 19, 14, 14  # of a character, of a line, of the font, around all; in pixels


def record(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    size: tuple[int, int],
    over: Callable[[list[Frame]], bool],
    interval: float = 1.0,
) -> list[Frame]:
    """Run a command in a terminal and return what it shows, once every `interval` seconds.

    Empty screens are left out. The command is stopped by Ctrl-C in the end.

    Args:
        command: The command.
        env: Its environment.
        size: Columns and lines of the terminal.
        over: Called with the frames after each one; returns whether it was the last one.
        interval: Seconds from one frame to the next.
    """
    columns, lines = size
    screen = pyte.Screen(columns, lines)
    stream = pyte.ByteStream(screen)
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    frames: list[Frame] = []
    with subprocess.Popen(  # noqa: S603 - what the caller says
        command,
        env={**env, "TERM": "xterm-256color"},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    ) as process:
        os.close(its)
        due = time.monotonic()
        while not over(frames):
            due += interval
            while (left := due - time.monotonic()) > 0:
                if select.select([ours], [], [], left)[0]:
                    stream.feed(os.read(ours, 1 << 16))
            if any(frame := tuple(_row(screen, line) for line in range(lines))):
                frames.append(frame)
        process.send_signal(signal.SIGINT)
    os.close(ours)
    return frames


def text(frame: Frame) -> str:
    """Return what a frame says, without colours."""
    return "\n".join("".join(part for part, _ in row) for row in frame)


def _row(screen: pyte.Screen, line: int) -> Row:
    """The texts of a line of the screen, without the spaces at its end."""
    cells = [screen.buffer[line][column] for column in range(screen.columns)]
    styled = groupby(cells, lambda cell: (cell.fg, bool(cell.bold)))
    row = [("".join(cell.data for cell in group), style) for style, group in styled]
    while row and not row[-1][0].strip():
        row.pop()
    return (*row[:-1], (row[-1][0].rstrip(), row[-1][1])) if row else ()


def render(frames: Sequence[Frame], columns: int, title: str, interval: float = 1.0) -> str:
    """Return the frames as an SVG that shows one after the other, again and again.

    Whoever prefers no motion sees the last frame. A row that several frames have is written once.
    """
    lines = max((number for frame in frames for number, row in enumerate(frame, 1) if row), default=1)
    rows: dict[Row, str] = {}
    groups = []
    for number, frame in enumerate(frames):
        uses = [
            f'<use href="#{rows.setdefault(row, f"r{len(rows)}")}" y="{line * HEIGHT}"/>'
            for line, row in enumerate(frame[:lines])
            if row
        ]
        groups.append(f'<g class="f" style="animation-delay:{number * interval:g}s">{"".join(uses)}</g>')
    width, height = columns * WIDTH + 2 * PAD, lines * HEIGHT + 2 * PAD
    seconds, share = len(frames) * interval, 100 / len(frames)
    style = (
        f"text{{font:{SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre}}"
        f".f{{visibility:hidden;animation:show {seconds:g}s step-end infinite}}"
        f"@keyframes show{{0%{{visibility:visible}}{share:.4f}%{{visibility:hidden}}}}"
        "@media(prefers-reduced-motion:reduce){.f{animation:none}.f:last-of-type{visibility:visible}}"
    )
    symbols = "".join(f'<g id="{name}">{_texts(row)}</g>' for row, name in rows.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">\n'
        f"<title>{escape(title)}</title><style>{style}</style><defs>{symbols}</defs>\n"
        f'<rect width="{width:g}" height="{height:g}" rx="6" fill="#1e1e1e"/>\n'
        f'<g transform="translate({PAD} {PAD + SIZE})">\n' + "\n".join(groups) + "\n</g></svg>\n"
    )


def _texts(row: Row) -> str:
    """A row as text elements, each as wide as its characters whatever the font is."""
    elements, column = [], 0
    for text, (colour, bold) in row:
        if text.strip():
            fill = COLOURS.get(colour) or f"#{colour}"
            weight = ' font-weight="bold"' if bold else ""
            elements.append(
                f'<text xml:space="preserve" x="{column * WIDTH:g}" textLength="{len(text) * WIDTH:g}" '
                f'fill="{fill}"{weight}>{escape(text)}</text>'
            )
        column += len(text)
    return "".join(elements)
