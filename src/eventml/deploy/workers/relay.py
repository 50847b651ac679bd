"""Lines from workers, passed on to the supervisor's own log: whose they are stands in front."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import msgspec

from eventml.deploy.workers.logs import utc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import ByteReceiveStream

_LONGEST: Final = 65_536  # bytes: a line beyond that is cut there, so that memory stays flat


class Printer(Protocol):
    """Writes a worker's line."""

    def __call__(self, worker: str, line: str) -> None: ...


async def lines(stream: ByteReceiveStream, longest: int = _LONGEST) -> AsyncIterator[bytes]:
    """The lines of a stream until its end, without their line ends; the last may lack one."""
    rest = b""
    try:
        async for chunk in stream:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line
            if len(rest) > longest:
                yield rest
                rest = b""
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    if rest:
        yield rest


def prefixed(width: int) -> Printer:
    """Lines for people: `worker-1 | 12:00:01 INFO ...`, the names padded to `width`."""

    def show(worker: str, line: str) -> None:
        _write(f"{worker:<{width}} | {line}")

    return show


def as_json(worker: str, line: str) -> None:
    """Lines for machines: JSON objects as they came, anything else (a print, a crash) inside one."""
    if not line.startswith("{"):
        wrapped = {"time": utc(time.time()), "level": "INFO", "logger": "", "worker": worker, "message": line}
        line = msgspec.json.encode(wrapped).decode()
    _write(line)


def _write(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
