"""The work folder of a file target, where a killed or stopped run leaves its checkpoint.

The manifest is replaced in one step, and names the parts that are finished. Any other file in the folder
was being written when the run was killed, and is written again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec

from eventml.deploy.batch.chunks import Checkpoint, RunIdentity
from eventml.errors import TargetError

if TYPE_CHECKING:
    from pathlib import Path

LOCK: Final = "lock"
MANIFEST: Final = "manifest.json"


class Manifest(msgspec.Struct, kw_only=True):
    """The state of an unfinished run.

    Attributes:
        run: The run's identity.
        checkpoint: Where the source is read on, and the rows before it.
        parts: The names of the finished parts, in order.
        reject_bytes: Length of the file of rejected rows, in bytes.
        last_id: The last id in the parts, as long as the ids rise.
        ascending: Whether the ids of all parts rise, so that none can be there twice.
    """

    run: RunIdentity
    checkpoint: Checkpoint = msgspec.field(default_factory=Checkpoint)
    parts: list[str] = []
    reject_bytes: int = 0
    last_id: Any = None
    ascending: bool = True

    def save(self, folder: Path) -> None:
        """Replace the manifest on disk. It is durable when this returns."""
        new = folder / f"{MANIFEST}.new"
        with new.open("wb") as stream:
            stream.write(msgspec.json.encode(self))
            sync(stream)
        new.replace(folder / MANIFEST)
        sync_folder(folder)


def load_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of an earlier run; None if there is none, or it or a part cannot be read."""
    try:
        found = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if all((folder / part).exists() for part in found.parts) else None


def lock_folder(folder: Path, target: object) -> BinaryIO:
    """Lock the folder until the returned file is closed or the process ends. Windows has no such locks.

    Raises:
        TargetError: Another run holds the lock.
    """
    stream = (folder / LOCK).open("ab")
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        return stream
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        stream.close()
        raise TargetError(f"{target}: another run is writing it; wait for its end") from exc
    return stream


def clear_folder(folder: Path) -> None:
    """Delete all files in the folder but the lock."""
    for path in folder.iterdir():
        if path.name != LOCK:
            path.unlink()


def sync(stream: BinaryIO) -> None:
    """Flush what was written to the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_file(path: Path) -> None:
    """Flush a closed file to the disk."""
    with path.open("rb+") as stream:
        sync(stream)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
