"""One run at a time on one file: a lock that a killed process lets go of."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from eventml.errors import TargetError

if TYPE_CHECKING:
    from pathlib import Path


def locked(path: Path, target: object) -> BinaryIO:
    """Take the lock, for as long as what is returned is open. Where the system has none, there is none.

    Raises:
        TargetError: another run holds it.
    """
    stream = path.open("ab")
    try:
        import fcntl  # noqa: PLC0415 - Windows has none
    except ImportError:
        return stream
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        stream.close()
        raise TargetError(f"{target}: another run is at work on it; wait for its end") from exc
    return stream
