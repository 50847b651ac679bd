"""Parquet, in one file or in a folder of them, and Delta tables; read and written by pyarrow."""

from __future__ import annotations

import os
import re
from itertools import chain, starmap
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pyarrow import fs

from eventml.deploy.batch.chunks import RowChunk, require_id_column
from eventml.deploy.batch.locations import DELTA, FileLocation
from eventml.deploy.batch.output_columns import column_kind
from eventml.deploy.batch.stores import file_system, fingerprint_of, store_errors
from eventml.errors import ConfigError, SourceError, TargetError
from eventml.event_types import fields_of
from eventml.models import import_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_MAX_CONDITIONS: Final = 4096  # of more, deltalake may crash


class DatasetSource:
    """Reads the rows of a Parquet file, or of a folder of them in the order of the files' names.

    The names of folders such as `month=2024-01` are columns: text where the event has text, numbers where all
    are. A column that a file lacks is null there. Of a Delta table it reads the last version. A position is
    the number of rows before it. Only the chosen columns are read, and of a row group no more than the pages
    of a chunk at a time.

    Raises:
        SourceError: It cannot be read, is of another format, or lacks the column.
    """

    def __init__(self, location: FileLocation, id_column: str, event_type: Any) -> None:
        self._location = location
        self._id = id_column
        fields = fields_of(event_type) or ()
        self._texts = {name for name, _, type_ in fields if column_kind(type_) == "text"}
        self._fingerprint = fingerprint_of(location)
        with store_errors(location, SourceError, "read as Parquet"):
            self._dataset = open_dataset(location)
            files = (one.physical_schema.names for one in self._dataset.get_fragments())
            self.columns = list(dict.fromkeys(chain(*files, self._dataset.schema.names)))
        if not self.columns:
            raise SourceError(f"{location}: there is no Parquet file in this folder")
        require_id_column(location, self.columns, id_column)

    def fingerprint(self) -> str:
        return self._fingerprint

    def total(self) -> int | None:
        with store_errors(self._location, SourceError, "read as Parquet"):
            return int(self._dataset.count_rows())

    def chunks(self, columns: Sequence[str], *, rows: int, after: int | None) -> Iterator[RowChunk]:
        done, skip, file_name = 0, after or 0, ""
        names = list(dict.fromkeys([self._id, *columns]))
        place = lambda: f" behind row {done}{file_name}"  # noqa: E731 - of these variables as they are then
        with store_errors(self._location, SourceError, "read as Parquet", place):
            for fragment in sorted(self._dataset.get_fragments(), key=lambda one: str(one.path)):
                file_name = "" if self._location.format == "parquet" else f" ({fragment.path})"
                with fragment.open() as stream:
                    file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 18)
                    whole = done + file.metadata.num_rows <= skip
                    done += file.metadata.num_rows if whole else 0
                    for batch in () if whole else self._batches(fragment, file, names, rows):
                        done += batch.num_rows
                        if done <= skip:
                            continue
                        part = batch.slice(max(skip - (done - batch.num_rows), 0))
                        values = {name: part.column(name) for name in columns}
                        yield RowChunk(position=done, ids=part.column(self._id), columns=values, done=done)

    def _batches(self, fragment: Any, file: Any, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """The columns of a file, and those of its folders' names; nulls for one that only others have."""
        inside = [name for name in names if name in file.schema_arrow.names]
        folders = pads.get_partition_keys(fragment.partition_expression)
        for name, _, text in (part.partition("=") for part in fragment.path.split("/")[:-1]):
            if name in self._texts and isinstance(folders.get(name), int):
                folders[name] = text
        outside = {name: pa.scalar(folders.get(name)) for name in names if name not in inside}
        # The pages of a chunk are few: threads would cost more memory than they save time.
        for batch in file.iter_batches(rows, columns=inside or None, use_threads=False):
            same = {name: pa.repeat(value, len(batch)) for name, value in outside.items()}
            yield pa.RecordBatch.from_pydict({**same, **{name: batch.column(name) for name in inside}})

    def close(self) -> None:
        pass  # no file is open between two runs of `chunks`


def files_in(location: FileLocation) -> list[str]:
    """Return the paths of the files in a folder, also hidden ones, but not of stores' marks of folders."""
    path, files = file_system(location)
    found = files.get_file_info(fs.FileSelector(path, recursive=True))
    return sorted(one.path for one in found if one.is_file and not one.path.endswith(("/", "_$folder$")))


def delta_table(location: FileLocation) -> Any:
    """Return the Delta table in a folder; None if it has none.

    Raises:
        SourceError: Its columns have other names in its files.
        ConfigError: It is, or would be, at a server without TLS, which the environment does not allow.
    """
    if location.format != "dataset":
        return None
    path, files = file_system(location)
    there = files.get_file_info(f"{path}/_delta_log").type == fs.FileType.Directory
    if there or location.path.suffix == DELTA:
        _check_http(location)
    if not there:
        return None
    table = import_extra("deltalake", "delta", "a Delta table").DeltaTable(location.url or path)
    # Tables of an older protocol do not declare the feature, and deltalake reads other columns then.
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise SourceError(f"{location}: a Delta table with column mapping cannot be read")
    return table


def _check_http(location: FileLocation) -> None:
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT", "")
    plain = location.url.startswith("s3:") and endpoint.startswith("http:")
    if plain and "AWS_ALLOW_HTTP" not in os.environ:
        raise ConfigError(
            f"{location}: AWS_ENDPOINT_URL is http://, where deltalake reads and writes only if "
            "AWS_ALLOW_HTTP=true is set in the environment"
        )


def open_dataset(location: FileLocation) -> pads.Dataset:
    """Open Parquet, or a Delta table; hidden files of a folder are left out. Foreign errors are raised."""
    path, files = file_system(location)
    if (table := delta_table(location)) is not None:
        # Not its own file system: threads of pyarrow that read by that sometimes abort a process that ends.
        return table.to_pyarrow_dataset(filesystem=fs.SubTreeFileSystem(path, files))
    if location.format != "dataset":
        return pads.dataset(path, filesystem=files, format="parquet", partitioning="hive")
    shown = [one for one in files_in(location) if not re.search("/[._]", one[len(path) :])]
    options = {"format": "parquet", "partitioning": "hive", "partition_base_dir": path}
    return pads.dataset(shown, filesystem=files, **options)


def has_other_columns(location: FileLocation, columns: pa.Schema, partition_by: Sequence[str]) -> bool:
    """Return whether there is a Delta table with other columns or types than `columns`.

    Where `columns` has no `id`, the type of the table's is not compared. A commit casts the values to
    the table's types without a word: a float to an integer, too.

    Raises:
        TargetError: There is, and only partitions of it are to be replaced.
    """
    with store_errors(location, TargetError, "written"):
        if (table := delta_table(location)) is None:
            return False
        fields = pa.schema(table.schema().to_arrow())
        there = {one.name: str(one.type).removeprefix("large_") for one in fields}
        ours = {one.name: str(one.type) for one in columns}
        differ = {**ours, **{name: there[name] for name in {"id"} & {*there} - {*ours}}} != there
        if differ and partition_by:
            raise TargetError(
                f"{location}: the Delta table has other columns than the predictions, or other types. "
                "Without --partition-by it is replaced as a whole; or name another target"
            )
        return differ


def replace_partitions(
    location: FileLocation, rows: Callable[[], pa.RecordBatchReader], partition_by: Sequence[str]
) -> None:
    """Write rows to a folder, in place of the files in each partition that they belong to.

    A Delta table, as which a folder `*.delta` is created, is written by one commit; who reads another folder
    meanwhile may find a partition empty, or a part of it.

    Raises:
        TargetError: They cannot be written.
    """
    path, files = file_system(location)
    columns = list(partition_by)
    with store_errors(location, TargetError, "written"):
        if (there := delta_table(location) is not None) or location.path.suffix == DELTA:
            write = import_extra("deltalake", "delta", "a Delta table").write_deltalake
            options: dict[str, Any] = {"partition_by": columns} if columns else {}
            if has_other_columns(location, rows().schema, columns):
                options = {"schema_mode": "overwrite", "partition_by": []}
            elif columns and there:
                options = {"predicate": _condition(location, rows(), columns)}
            write(location.url or path, rows(), mode="overwrite", **options)
            return
        if not columns:  # one file, also of no rows
            files.delete_dir_contents(path, missing_dir_ok=True)
            if not location.url:
                files.create_dir(path)
            with pq.ParquetWriter(f"{path}/part-0.parquet", rows().schema, filesystem=files) as writer:
                for batch in rows():
                    writer.write_batch(batch)
            return
        pads.write_dataset(
            rows(),
            path,
            filesystem=files,
            format="parquet",
            partitioning=columns,
            partitioning_flavor="hive",
            existing_data_behavior="delete_matching",
            max_partitions=1 << 20,
            create_dir=not location.url,  # a store would create a bucket, too
        )


def _condition(location: FileLocation, rows: pa.RecordBatchReader, columns: list[str]) -> str:
    """The condition, in SQL, that a row is in a partition of one of these."""
    found: dict[str, None] = {}
    for batch in rows:
        for row in pa.Table.from_batches([batch]).group_by(columns).aggregate([]).to_pylist():
            found[" AND ".join(starmap(_equals, row.items()))] = None
    if len(found) > _MAX_CONDITIONS:
        raise TargetError(
            f"{location}: the rows are in {len(found):,} partitions, and a commit replaces "
            f"{_MAX_CONDITIONS:,} at most: choose columns with fewer values in --partition-by"
        )
    conditions = list(found) or ["false"]
    while len(conditions) > 1:  # nested, as deltalake's parser of a long chain uses up the stack
        parts = (conditions[start : start + 8] for start in range(0, len(conditions), 8))
        conditions = [f"({' OR '.join(part)})" for part in parts]
    return conditions[0]


def _equals(name: str, value: Any) -> str:
    column = '"' + name.replace('"', '""') + '"'
    text = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
    return f"{column} IS NULL" if value is None else f"{column} = {text}"
