"""What the work folder of a file target holds, and which of it counts: a checkpoint on disk.

The manifest is replaced in one step, and names the parts that are finished. Whatever else lies in the
folder was being written when the run was killed, and is written again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.deploy.batch.chunks import Checkpoint, Run
from eventml.deploy.batch.opening import identity

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = "manifest.json"


class Manifest(msgspec.Struct, kw_only=True):
    """The state of a run on disk.

    Attributes:
        run: Whose it is.
        base: The identity of the target file that was there before; empty if there was none.
        finished: The identity of the complete file that is about to become the target.
        checkpoint: Behind the last row of the last part.
        parts: The names of the finished parts, in order.
        rejects: How many bytes of the rejects belong to them.
        last: The last id that they hold, if all of them are in ascending order.
        ascending: Whether they are.
    """

    run: Run
    base: str = ""
    finished: str = ""
    checkpoint: Checkpoint = msgspec.field(default_factory=Checkpoint)
    parts: list[str] = []
    rejects: int = 0
    last: Any = None
    ascending: bool = True


def load(folder: Path) -> Manifest | None:
    """The manifest; None where there is none that can be read."""
    try:
        return msgspec.json.decode((folder / NAME).read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def save(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest; it is on the disk when this returns."""
    new = folder / f"{NAME}.new"
    with new.open("wb") as stream:
        stream.write(msgspec.json.encode(manifest))
        synced(stream)
    new.replace(folder / NAME)
    sync_folder(folder)


def resumes(found: Manifest, run: Run, folder: Path, target: Path) -> bool:
    """Whether a run goes on from what was found: the same run, all of it there, the target as it was."""
    whole = all((folder / part).exists() for part in found.parts)
    return found.run == run and found.base == identity_of(target) and whole


def was_finished(found: Manifest, target: Path) -> bool:
    """Whether the target is the complete file already, and only was not cleaned up after."""
    return bool(found.finished) and found.finished == identity_of(target)


def identity_of(target: Path) -> str:
    """Another one whenever the file has been replaced or written to; empty where there is none."""
    try:
        return identity(target.stat())
    except FileNotFoundError:
        return ""


def synced(stream: Any) -> None:
    """Have what was written on the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)
