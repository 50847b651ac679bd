"""Exceptions: their description for messages and logs, and exception groups with one exception unwrapped."""

from __future__ import annotations

import linecache
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from traceback import walk_tb
from typing import Final

import anyio
from anyio.abc import TaskGroup

from eventml.errors import DecodeError, UnavailableError
from eventml.printable import printable

_MAX_DESCRIPTION: Final = 1_000  # characters
_LIBRARIES: Final = {"eventml", "anyio", "asyncio", "trio", "outcome", "threading", "concurrent"}
_MAX_FRAMES: Final = 6
_MAX_SOURCE_LINE: Final = 120  # characters
_BOUND: Final = (
    r" (?:of length )?(?:[<>]=? )?-?[\d.]+(?:e[+-]?\d+)?| that's a multiple of [\d.]+| matching regex"
    r"| with (?:a|no) timezone component"
)
_VALIDATION: Final = re.compile(
    rf"(Expected `[^`]*`(?:, got `[^`]*`|{_BOUND})?|Object missing required field `[^`]*`|"
    r"Input data was truncated|(?:JSON|MessagePack data) is malformed|"
    r"Invalid (?:RFC3339 encoded [a-z]+|ISO8601 duration|UUID|base64 encoded string|decimal string)|"
    r"Input should be [a-z ]+[-\d.]*|Field required)"
    r"(?:.* at `(\$(?:\.\w+)?))?"
)
"""What msgspec and pydantic say of a type, and the first field of the path. Others may hold values."""


def describe(error: BaseException) -> str:
    """An exception in one line of printable text, with its cause if it has one, cut to 1,000 characters."""
    text = _type_and_message(error)
    cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
    if cause is not None and (not own_message(cause) or own_message(cause) not in text):
        text = f"{text} (from {_type_and_message(cause)})"
    return printable(text[:_MAX_DESCRIPTION])[:_MAX_DESCRIPTION]


def _type_and_message(error: BaseException) -> str:
    message = own_message(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def own_message(error: BaseException) -> str:
    """What an exception says, without its class and its cause, as it is."""
    try:
        return str(error)
    except Exception as exc:  # noqa: BLE001 - a handler's own exception may fail in any way
        return f"<str() of the exception failed: {type(exc).__name__}>"


def failure_cause(error: BaseException) -> str:
    """Why an event failed, in one line for logs, which never has a value of the event.

    That is the class of the exception and where it was raised, or how an undecodable value fails its type.
    """
    name = type(error).__qualname__
    if isinstance(error, UnavailableError) and error.__cause__ is not None:
        name = f"{name} from {type(error.__cause__).__qualname__}"
    if isinstance(error, DecodeError):
        found = _VALIDATION.match(own_message(error.__cause__)) if error.__cause__ is not None else None
        where = "" if found is None or found[2] is None else f" at `{found[2]}`"
        return f"{name}: {found[1].strip()}{where}" if found is not None else name
    place = summarise_traceback(error, _MAX_DESCRIPTION).rpartition("\n")[2].partition(": ")[0]
    return f"{name} at {place}" if place else name


def leaves(error: BaseException) -> list[BaseException]:
    """The errors inside an exception group, at any depth; of any other error, the error itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for one in error.exceptions for leaf in leaves(one)]


def summarise_traceback(error: BaseException, size: int) -> str:
    """The frames from the handler's function down to the one that raised, outermost first.

    One line a frame, as `module:line in function: source`. Of a deep stack the first and the last frames are
    kept. A summary of more than `size` characters is cut at its beginning. It is empty for an error that no
    handler raised.
    """
    lines: list[str] = []
    for frame, number in walk_tb(error.__traceback__):
        module, code = str(frame.f_globals.get("__name__", "?")), frame.f_code
        if lines or module.partition(".")[0] not in _LIBRARIES:
            source = linecache.getline(code.co_filename, number, frame.f_globals).strip()[:_MAX_SOURCE_LINE]
            lines.append(f"{module}:{number} in {code.co_name}: {source}")
    if len(lines) > _MAX_FRAMES:
        lines = [lines[0], "…", *lines[2 - _MAX_FRAMES :]]
    text = "\n".join(lines)
    return text if len(text) <= size else f"…{text[1 - size :]}"


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """As `anyio.create_task_group`, but a single error is raised as it is, not in an ExceptionGroup.

    A user who writes `except PublishError` around `async with bus:` need not know that the bus runs tasks.
    Several errors at once are still raised as a group.
    """
    single: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        single = group
        while isinstance(single, BaseExceptionGroup) and len(single.exceptions) == 1:
            [single] = single.exceptions
        if isinstance(single, BaseExceptionGroup):
            raise
    if single is not None:
        raise single
