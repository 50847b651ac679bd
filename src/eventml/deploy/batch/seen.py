"""Which ids a file has: exactly, and in flat memory.

Ids that only ever rise cannot repeat, and one id is all there is to remember. Where they do not, or the
file had some before, an index on disk remembers them.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from eventml.deploy.batch.columns import as_list, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from eventml.deploy.batch.chunks import Column


class Seen:
    """The ids that were written.

    Args:
        path: Where the index goes, if there has to be one.
        last: The last id, of ids that have only risen so far.
    """

    def __init__(self, path: Path, last: Any = None) -> None:
        self._path = path
        self.last = last
        self._index: sqlite3.Connection | None = None

    @property
    def ascending(self) -> bool:
        return self._index is None

    def new(self, ids: Column, earlier: Callable[[], Iterable[Sequence[Any]]]) -> list[int] | None:
        """The positions of the ids that are new, None for all; they are seen from then on.

        Args:
            ids: To look at.
            earlier: All that were seen so far, for when an index has to be begun.
        """
        if not len(ids):
            return None
        if self._index is None:
            if rising(ids, self.last):
                self.last = as_list(ids[-1:])[0]
                return None
            self.begin_index(earlier())
        return self._insert(texts(as_list(ids)))

    def begin_index(self, earlier: Iterable[Sequence[Any]]) -> None:
        """Dedupe each id from now on."""
        self._path.unlink(missing_ok=True)
        index = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = MEMORY", "synchronous = OFF", "cache_size = -16000"):
            index.execute(f"PRAGMA {pragma}")
        index.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._index = index  # now: `known` may ask it from another thread while `new` fills it
        for ids in earlier:
            self._insert(texts(ids))

    def known(self, ids: Column) -> set[Any]:
        """Those that were seen; of ids that only rise nobody need ask."""
        if self._index is None:
            return set()
        ask = "SELECT 1 FROM seen WHERE id = ?"
        named = (one for one in as_list(ids) if one is not None)
        return {one for one in named if self._index.execute(ask, (str(one),)).fetchone()}

    def _insert(self, ids: Sequence[str]) -> list[int] | None:
        index = self._index
        if index is None:
            raise RuntimeError("there is no index")
        add = "INSERT INTO seen VALUES (?) ON CONFLICT DO NOTHING"
        index.execute("BEGIN")
        before = index.total_changes
        index.executemany(add, zip(ids, strict=True))
        if index.total_changes - before == len(ids):
            index.execute("COMMIT")
            return None
        index.execute("ROLLBACK")
        index.execute("BEGIN")
        found = [number for number, one in enumerate(ids) if index.execute(add, (one,)).rowcount]
        index.execute("COMMIT")
        return found

    def close(self) -> None:
        if self._index is not None:
            self._index.close()


def rising(ids: Column, last: Any) -> bool:
    """Whether each id is greater than the one before it, and the first than the last one seen."""
    if hasattr(ids, "to_pylist"):
        import pyarrow.compute as pc  # noqa: PLC0415 - whoever has such a column has it

        first = ids[0].as_py()
        inner = len(ids) == 1 or pc.all(pc.less(ids[:-1], ids[1:])).as_py()
    else:
        first = ids[0]
        inner = all(map(lambda one, other: one < other, ids, ids[1:]))
    return bool(inner) and (last is None or (type(first) is type(last) and first > last))
