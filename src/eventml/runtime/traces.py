"""A traceback in a few lines: where in the handler's own code it went wrong."""

from __future__ import annotations

import linecache
from traceback import walk_tb
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

_MACHINERY: Final = {"eventml", "anyio", "asyncio", "trio", "outcome", "threading", "concurrent"}
_FRAMES = 6
_LINE = 120  # characters of a source line


def summarise(error: BaseException, size: int) -> str:
    """The frames from the handler's function down to where it raised, the outermost first.

    A frame a line, as `module:line in function: source`. Of a deep stack the first and the last ones
    are kept. Empty for an error that no handler raised.

    Args:
        error: What was raised.
        size: The most characters; what is beyond them is cut off at the front, where it is least telling.
    """
    frames = list(walk_tb(error.__traceback__))
    while frames and _package(frames[0][0]) in _MACHINERY:
        del frames[0]
    lines = [_line(frame, number) for frame, number in frames]
    if len(lines) > _FRAMES:
        lines = [lines[0], "…", *lines[2 - _FRAMES :]]
    text = "\n".join(lines)
    return text if len(text) <= size else f"…{text[1 - size :]}"


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _line(frame: FrameType, number: int) -> str:
    code, module = frame.f_code, frame.f_globals.get("__name__", "?")
    source = linecache.getline(code.co_filename, number, frame.f_globals).strip()[:_LINE]
    return f"{module}:{number} in {code.co_name}: {source}"
