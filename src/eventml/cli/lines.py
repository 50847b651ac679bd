"""The lines of a stream as they come: a file's, or those of a pipe that never ends."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from eventml.cli.output import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK: Final = 1 << 20  # bytes in one read: a thousand lines or so
LONGEST: Final = 16 << 20  # bytes in one line: what is longer is no text


class Stream(Protocol):
    """A buffered binary stream."""

    def read1(self, size: int, /) -> bytes: ...


class Lines:
    """An iterator over lines, without their ends. It holds one read's worth of them at most.

    Attributes:
        number: Of the line that was last taken, from 1.
        bytes_read: How much of the stream has been read.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._waiting: deque[bytes] = deque()
        self._begun: list[bytes] = []
        self._ended = False
        self.number = 0
        self.bytes_read = 0

    @property
    def at_hand(self) -> bool:
        """Whether the next line is there already, and taking it does not wait."""
        return bool(self._waiting)

    def peek(self) -> bytes | None:
        """The next line, not taken yet; None at the end."""
        while not self._waiting and not self._ended:
            self._read()
        return self._waiting[0] if self._waiting else None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.peek() is None:
            raise StopIteration
        self.number += 1
        return self._waiting.popleft()

    def _read(self) -> None:
        block = self._stream.read1(_BLOCK)
        self.bytes_read += len(block)
        self._ended = not block
        *ends, rest = block.split(b"\n")
        if ends:
            self._waiting += [b"".join([*self._begun, ends[0]]), *ends[1:]]
            self._begun.clear()
        if rest:
            self._begun.append(rest)
        if self._ended and self._begun:  # the last line has no end
            self._waiting.append(b"".join(self._begun))
            self._begun.clear()
        self._check_length()

    def _check_length(self) -> None:
        if sum(map(len, self._begun)) > LONGEST:
            number = self.number + len(self._waiting) + 1
            raise UsageError(
                f"line {number} is longer than {LONGEST >> 20} MiB: this is neither CSV nor JSON lines"
            )
