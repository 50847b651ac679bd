"""Failures: their classification and description, and the search for the bad events of a failed batch.

The decisions are pure: what is done about a failure is in `retry.py`.
"""

from __future__ import annotations

import linecache
import math
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from traceback import walk_tb
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from eventml.backends.base import Completion
from eventml.errors import DecodeError, HandlerTimeoutError, Reject, UnavailableError
from eventml.handler_options import HandlerOptions
from eventml.printable import printable
from eventml.runtime.infrastructure import is_infrastructure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from anyio.abc import TaskGroup

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


class Failed(msgspec.Struct, frozen=True):
    """The result of an event that failed."""

    error: Exception


NOT_CALLED: Final = Failed(UnavailableError("not called, as an earlier event of its key failed"))
"""The result of an event that was not called, because an earlier event of its key had failed."""


CallResults = Sequence[Completion | Failed]
"""The results of one call of the handler for a batch, one for each event, in their order."""


def contains_rejects(outputs: Iterable[object]) -> bool:
    """Whether one of a handler's outputs is a `Reject`. It looks at each type once, as most have one."""
    return any(issubclass(type_, Reject) for type_ in set(map(type, outputs)))


class Verdict(Enum):
    """Which events of a batch a failure is about, and so what to do next."""

    INFRASTRUCTURE = "no event is at fault: retry the whole batch until it succeeds"
    EVENT = "an event is at fault: find it, retry it a few times, then move it to the dead letters"
    REJECTED = "an event is at fault, and a retry would not help: move it to the dead letters"


def classify(error: Exception, retry_on: tuple[type[Exception], ...] = ()) -> Verdict:
    """Classify a failure by its type; `retry_on` are failures of the infrastructure too.

    An exception group, as a handler's own task group raises it, has the verdict that all its exceptions have;
    if they differ, an event is at fault.
    """
    if isinstance(error, ExceptionGroup) and not isinstance(error, retry_on):
        verdicts = {classify(one, retry_on) for one in error.exceptions}
        return verdicts.pop() if len(verdicts) == 1 else Verdict.EVENT
    if isinstance(error, Reject | DecodeError):
        return Verdict.REJECTED
    if isinstance(error, retry_on):
        return Verdict.INFRASTRUCTURE
    if isinstance(error, HandlerTimeoutError):
        return Verdict.EVENT
    return Verdict.INFRASTRUCTURE if is_infrastructure(error) else Verdict.EVENT


def should_retry(error: Exception, attempts: int, options: HandlerOptions) -> bool:
    """Whether an event that has failed on its own this many times is tried again.

    If not, it is moved to the dead letters.
    """
    verdict = classify(error, options.retry_on)
    return verdict is Verdict.INFRASTRUCTURE or (verdict is Verdict.EVENT and attempts <= options.retries)


class Bisection:
    """Which parts of a failed batch to call next, to find its bad events: a state machine.

    Ask `next` for a part, call the handler with it, and report it if it `failed`; until `next` returns
    None. Parts come from left to right, so everything to the left of a part is settled.

    Halving is Hildebrandt and Zeller's delta debugging, reduced to faults that are independent of each other.
    One bad event among n costs at most 2*ceil(log2 n) + 1 calls, the first one, which failed, included.

    Args:
        size: The length of the batch, 2 at least, which has been called once and failed.
        seconds: When to stop, once the calls that a single bad event takes have been made.
    """

    def __init__(self, size: int, seconds: float = math.inf) -> None:
        self._open: list[range] = []
        self._current = range(size)
        self._deadline = time.monotonic() + seconds
        self._fewest_calls = 2 * math.ceil(math.log2(size)) + 1
        self.calls = 1
        self.failed()

    def next(self) -> range | None:
        """The leftmost part that is not settled; None if all is settled or the time is over."""
        if not self._open or (self.calls >= self._fewest_calls and time.monotonic() > self._deadline):
            return None
        self.calls += 1
        self._current = self._open.pop()
        return self._current

    def failed(self) -> bool:
        """Report that the handler failed for the part. Returns whether it is a single event: a bad one."""
        middle = len(self._current) // 2
        if middle == 0:
            return True
        self._open += [self._current[middle:], self._current[:middle]]
        return False


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
