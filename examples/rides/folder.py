"""The folder that the models are in, and writing to it while others read and write."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]  # the name stands for "no locks here"

from eventml.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT: Final = "RIDES_MODELS"


def models_folder() -> Path:
    """`$RIDES_MODELS`, or a cache folder of the user's. It need not exist."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "eventml" / "rides"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and hold its lock: one thread of one process at a time, the others wait.

    The system drops the lock of a process that dies. Where it has no `flock` nothing is held, and two
    trainings at once do the same work twice; what they write is whole all the same.

    Raises:
        ModelError: The folder cannot be made or written to.
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
    """Write a file in one step: whoever reads it meanwhile has the old one or the new one, whole.

    Raises:
        ModelError: It cannot be written; the old one is as it was.
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
