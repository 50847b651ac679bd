"""The folder of the models, and writing to it while other processes read and write."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]  # None stands for "no locks"

from eventml.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT: Final = "RIDES_MODELS"


def models_folder() -> Path:
    """Return `$RIDES_MODELS`, or else a folder in the user's cache. It may not exist yet."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "eventml" / "rides"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder and hold its lock, which one thread of one process can hold at a time.

    The system releases the lock of a process that dies. Without `flock` nothing is locked: two trainings at
    the same time both do the work, but the files that they write are still complete.

    Raises:
        ModelError: The folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("ab")
    except OSError as exc:
        raise ModelError(
            f"cannot write models to {folder} ({exc.strerror}): name another folder in ${ENVIRONMENT}"
        ) from exc
    with file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def replace(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new content, complete.

    Raises:
        ModelError: It cannot be written; the old content is unchanged.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as exc:
        raise ModelError(f"cannot write {path}: {exc.strerror}") from exc
    finally:
        draft.unlink(missing_ok=True)
