"""When workers run with another model file than the one that is there: a pure decision, and its memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


class Watch:
    """Tells when model files have changed and hold still since.

    A file that is being written changes from look to look; one that is away is not yet there. Either
    is left alone until two looks in a row agree. A file is named once: if the new model turns out to
    be unusable, it takes another change to try again.
    """

    def __init__(self) -> None:
        self._named: dict[str, str] = {}
        self._last: dict[str, str] = {}

    def changed(self, loaded: Mapping[str, Collection[str]], seen: Mapping[str, str]) -> list[str]:
        """Look once.

        Args:
            loaded: By path, the stamps of the files that workers have loaded.
            seen: By path, the stamps of the files that are there now.

        Returns:
            The files that are others than some worker has loaded.
        """
        found = [
            path
            for path, stamps in loaded.items()
            if path in seen
            and self._last.get(path) == seen[path] != self._named.get(path)
            and any(stamp != seen[path] for stamp in stamps)
        ]
        self._last = dict(seen)
        self._named |= {path: seen[path] for path in found}
        return found


def stamp(path: str) -> str | None:
    """What changes with a file: its inode, its size, when it was written. None where there is none."""
    try:
        said = Path(path).stat()
    except OSError:
        return None
    return f"{said.st_ino}-{said.st_size}-{said.st_mtime_ns}"


def stamps(paths: Iterable[str]) -> dict[str, str]:
    """The stamps of those files that are there."""
    return {path: found for path in paths if (found := stamp(path)) is not None}
