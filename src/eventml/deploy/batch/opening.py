"""What all files have in common: whether they are there, and whether they are still the same."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from eventml.errors import SourceError

if TYPE_CHECKING:
    import os
    from pathlib import Path


def require_file(path: Path) -> None:
    """Pass if there is a file that can be read.

    Raises:
        SourceError: there is none.
    """
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
        with path.open("rb"):
            pass
    except OSError as exc:
        raise SourceError(f"{path}: {exc.strerror}") from exc
    if not regular:
        raise SourceError(f"{path} is no regular file: a job that is to be resumed cannot read it twice")


def fingerprint(path: Path) -> str:
    """Another one whenever the file has been written to or replaced, as far as its system tells."""
    return identity(path.stat())


def identity(found: os.stat_result) -> str:
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"
