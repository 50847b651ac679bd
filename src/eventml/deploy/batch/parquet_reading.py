"""Reading a Parquet file, a chunk at a time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eventml.deploy.batch.chunks import Chunk
from eventml.deploy.batch.opening import fingerprint, require_file
from eventml.errors import MissingExtraError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class ParquetSource:
    """Rows in the file's order; a position is the number of rows before it.

    Only the wanted columns are read, and of a row group no more than a chunk's pages at a time.

    Args:
        path: The file.
        id_column: Where the ids are.

    Raises:
        SourceError: there is no such file, it is no Parquet, or lacks the column.
    """

    def __init__(self, path: Path, id_column: str) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415 - it comes with an extra
            import pyarrow.parquet as pq  # noqa: PLC0415 - it comes with an extra
        except ImportError as exc:
            raise MissingExtraError("batch", "reading Parquet") from exc
        self._errors = (pa.ArrowException, OSError)
        self._path = path
        self._id = id_column
        require_file(path)
        with self._translated():
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 18)
        self.columns = self._file.schema_arrow.names
        if id_column not in self.columns:
            raise SourceError(
                f"{path} has no column {id_column!r} to take the ids from; there are: "
                f"{', '.join(self.columns)}. Choose one with --id"
            )

    def fingerprint(self) -> str:
        return fingerprint(self._path)

    def total(self) -> int | None:
        return int(self._file.metadata.num_rows)

    def chunks(self, wanted: Sequence[str], *, rows: int, after: int | None) -> Iterator[Chunk]:
        done = after or 0
        groups, skip = self._groups_behind(done)
        names = list(dict.fromkeys([self._id, *wanted]))
        with self._translated():
            # Threads cost more memory than they save time: the pages of a chunk are few.
            for batch in self._file.iter_batches(rows, row_groups=groups, columns=names, use_threads=False):
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                part = batch.slice(skip)
                skip = 0
                done += part.num_rows
                yield Chunk(
                    after=done,
                    ids=part.column(self._id),
                    columns={name: part.column(name) for name in wanted},
                    done=done,
                )

    def _groups_behind(self, done: int) -> tuple[list[int], int]:
        """The row groups that hold rows behind the position, and how many rows of the first to pass over."""
        metadata = self._file.metadata
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).num_rows
            if done < size:
                return list(range(group, metadata.num_row_groups)), done
            done -= size
        return [], 0

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._errors as exc:
            raise SourceError(f"{self._path}: cannot be read as Parquet: {_first_line(exc)}") from exc


def _first_line(error: Any) -> str:
    return str(error).partition("\n")[0]
