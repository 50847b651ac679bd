"""The folder of an unfinished run: private and locked.

The folder above it may be one that others write to, such as /tmp, where they can put a link or a folder of
theirs in its place at any moment. So both folders are opened once and checked, and every name is then looked
up in the opened folder, and no link is followed. Windows cannot do that: names are looked up by path there,
and neither owner nor permissions are checked.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from eventml.errors import JobRunningError, TargetError

if TYPE_CHECKING:
    import re

LOCK: Final = "lock"

_POSIX: Final = os.name == "posix"
_NO_LINKS: Final = getattr(os, "O_NOFOLLOW", 0)


class WorkFolder:
    """A folder with mode 0700 that is created if it does not exist, and locked until `close`.

    Args:
        path: Its path. The folder above it exists; links in the path to that one are followed.
        own_names: The names of a run's files, beside the lock's. Files of other names are left alone.

    Raises:
        JobRunningError: Another run has locked it.
        TargetError: It exists and is not as it is created here: a link, a
            folder of another user or with permissions for others, or with links under a run's names. Or the
            file system keeps no permissions.
        OSError: It cannot be created or opened.
    """

    def __init__(self, path: Path, own_names: re.Pattern[str]) -> None:
        self.path = path
        self._own_names = own_names
        self._lock: IO[bytes] | None = None
        self._folder: int | None = None
        self._above = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY) if _POSIX else None
        try:
            try:
                os.mkdir(self._beside(path.name), 0o700, dir_fd=self._above)
                made = True
            except FileExistsError:
                made = False
            self._folder = self._open_checked(made=made)
            for name in [LOCK, *self.names()]:
                with suppress(FileNotFoundError):  # no lock yet, or a run that holds it is at work
                    self._check_file(name)
            self._lock = self._locked()
        except BaseException:
            self._release()
            raise

    def open(self, name: str, mode: str) -> IO[bytes]:
        """Open one of the files, as the built-in `open` does; a new one has the user's usual permissions."""

        def opener(path: str, flags: int) -> int:
            return os.open(path, flags | _NO_LINKS, 0o666, dir_fd=self._folder)

        stream: IO[bytes] = open(self._inside(name), mode, opener=opener)  # noqa: SIM115 - the caller closes it
        return stream

    def names(self) -> set[str]:
        """Return the names of the run's files, without the lock."""
        found = os.listdir(self.path if self._folder is None else self._folder)  # noqa: PTH208 - no path
        return set(filter(self._own_names.fullmatch, found))

    def rename(self, name: str, new: str) -> None:
        """Give a file that was synced another name in the folder. That is durable when this returns."""
        here = self._folder
        os.replace(self._inside(name), self._inside(new), src_dir_fd=here, dst_dir_fd=here)
        _sync_folder(here)

    def move_out(self, name: str, new: str) -> None:
        """Move a file to the folder above in one step. It replaces a file or a link of the name `new`."""
        os.replace(self._inside(name), self._beside(new), src_dir_fd=self._folder, dst_dir_fd=self._above)
        _sync_folder(self._above)

    def delete_beside(self, name: str) -> None:
        """Delete a file or a link in the folder above, if there is one."""
        with suppress(FileNotFoundError):
            os.unlink(self._beside(name), dir_fd=self._above)

    def clear(self) -> None:
        """Delete the run's files, but not the lock."""
        self._delete(self.names())

    def close(self, *, delete: bool) -> None:
        """Release the lock; before that delete the run's files and the folder, if `delete` is true."""
        if delete:
            with suppress(OSError):  # a file of another name keeps the folder
                if not _POSIX:
                    self._release()  # Windows deletes no open file
                self._delete([*self.names(), LOCK])
                os.rmdir(self._beside(self.path.name), dir_fd=self._above)
        self._release()

    def _inside(self, name: str) -> str:
        return name if _POSIX else str(self.path / name)

    def _beside(self, name: str) -> str:
        return name if _POSIX else str(self.path.with_name(name))

    def _delete(self, names: Collection[str]) -> None:
        for name in names:
            os.unlink(self._inside(name), dir_fd=self._folder)

    def _open_checked(self, *, made: bool) -> int | None:
        if not _POSIX:
            return None
        try:
            found = os.open(self.path.name, os.O_RDONLY | os.O_DIRECTORY | _NO_LINKS, dir_fd=self._above)
        except OSError as exc:
            if exc.errno in {errno.ENOTDIR, errno.ELOOP}:
                raise self._refused("it is a link or a file") from exc
            raise
        status = os.fstat(found)
        if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
            return found
        os.close(found)
        if made:
            with suppress(OSError):
                os.rmdir(self._beside(self.path.name), dir_fd=self._above)
            raise TargetError(
                f"{self.path}: this file system keeps no permissions; write elsewhere, and copy the file"
            )
        if status.st_uid != os.geteuid():
            raise self._refused("it belongs to another user")
        raise self._refused(f"its mode is {stat.S_IMODE(status.st_mode):04o} and not 0700")

    def _check_file(self, name: str) -> None:
        status = os.stat(self._inside(name), dir_fd=self._folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise self._refused(f"{name!r} in it is a link or no file")

    def _refused(self, problem: str) -> TargetError:
        return TargetError(
            f"{self.path}: this is not the folder of an unfinished run: {problem}. It may have been put "
            "there to make the run delete or publish other files. Look into it, then move or delete it"
        )

    def _locked(self) -> IO[bytes]:
        """Lock the folder until the file is closed or the process ends. Windows has no such locks."""
        stream = self.open(LOCK, "ab")
        try:
            import fcntl  # noqa: PLC0415 - not on Windows

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return stream
        except BlockingIOError as exc:
            with stream, self.open(LOCK, "rb") as holder:
                who = holder.read(100).decode(errors="replace")
            raise JobRunningError(
                f"{self.path.stem}: another run is writing it{who and f' ({who})'}"
            ) from exc
        if os.fstat(stream.fileno()).st_nlink == 0:
            stream.close()
            raise JobRunningError(f"{self.path.stem}: another run has just finished it")
        stream.truncate(0)
        stream.write(f"process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC".encode())
        stream.flush()
        return stream

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
        for descriptor in (self._folder, self._above):
            if descriptor is not None:
                os.close(descriptor)
        self._lock = self._folder = self._above = None


def _sync_folder(descriptor: int | None) -> None:
    """Flush the names in a folder to the disk."""
    if descriptor is not None:
        os.fsync(descriptor)
