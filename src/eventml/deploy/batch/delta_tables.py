"""Delta tables: folders of Parquet files with a log of commits, read and written by deltalake."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import fs

from eventml.deploy.batch.stores import file_system
from eventml.models import import_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pyarrow.dataset as pads

    from eventml.deploy.batch.locations import FileLocation

def is_delta_table(location: FileLocation) -> bool:
    """Return whether a location is a folder with a log of commits."""
    if location.format != "dataset":
        return False
    path, store = file_system(location)
    log = f"{path.rstrip('/')}/_delta_log"
    return Path(log).is_dir() if store is None else bool(store.exists(log))


def open_delta_table(location: FileLocation) -> pads.Dataset:
    """Return the files of the table's last version, as a data set."""
    path, store = file_system(location)
    # Not deltalake's own file system: threads of pyarrow that read by it sometimes abort a process that ends.
    files = fs.LocalFileSystem() if store is None else fs.PyFileSystem(fs.FSSpecHandler(store))
    table = _deltalake().DeltaTable(location.url or path)
    found: pads.Dataset = table.to_pyarrow_dataset(filesystem=fs.SubTreeFileSystem(path, files))
    return found


def write_delta_table(
    location: FileLocation,
    schema: pa.Schema,
    batches: Callable[[], Iterable[pa.RecordBatch]],
    partition_by: Sequence[str],
) -> None:
    """Write rows by one commit, in place of the table's, or of those in the partitions that they belong to."""
    options: dict[str, Any] = {"partition_by": list(partition_by)} if partition_by else {}
    if partition_by and is_delta_table(location):
        options = {"predicate": _condition(batches(), partition_by)}
    rows = pa.RecordBatchReader.from_batches(schema, batches())
    uri = location.url or str(location.path)
    _deltalake().write_deltalake(uri, rows, mode="overwrite", **options)


def _deltalake() -> Any:
    return import_extra("deltalake", "delta", "a Delta table")


def _condition(batches: Iterable[pa.RecordBatch], names: Sequence[str]) -> str:
    """The condition, in SQL, that a row is in the partition of one of these."""
    found: dict[tuple[Any, ...], None] = {}
    for batch in batches:
        distinct = pa.Table.from_batches([batch]).group_by(list(names)).aggregate([])
        found.update(dict.fromkeys(zip(*(distinct[name].to_pylist() for name in names), strict=True)))
    rows = (" AND ".join(map(_equals, names, values)) for values in found)
    return " OR ".join(f"({row})" for row in rows) or "false"


def _equals(name: str, value: Any) -> str:
    column = '"' + name.replace('"', '""') + '"'
    if value is None:
        return f"{column} IS NULL"
    text = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
    return f"{column} = {text}"
