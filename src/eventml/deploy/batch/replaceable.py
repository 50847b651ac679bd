"""Whether a run may replace the files at its target: only predictions of an earlier run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from eventml.deploy.batch.csv_reader import CsvReader, TextLines
from eventml.deploy.batch.datasets import delta_table, files_in, open_dataset
from eventml.deploy.batch.locations import DELTA, FileLocation
from eventml.deploy.batch.stores import file_system, open_file, store_errors
from eventml.errors import SourceError, TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence

_KILLED: Final = re.compile(r"(^|/)part-\d+\.parquet$")  # what a killed run of ours may have left unfinished

_CONTENT: Final = (pa.ArrowException, msgspec.DecodeError, UnicodeError, SourceError)


def is_in_source(target: FileLocation, source: FileLocation) -> bool:
    """Return whether a target is the source, or lies in the folder that is the source."""
    if target.url or source.url:
        return f"{target.url.rstrip('/')}/".startswith(f"{source.url.rstrip('/')}/")
    same = target.path.exists() and target.path.samefile(source.path)
    return same or source.path.resolve() in target.path.resolve().parents


def check_replaceable(
    location: FileLocation, columns: Sequence[str], rows: str, partition_by: Sequence[str] = ()
) -> None:
    """Raise TargetError if there is a link, or a file or folder of something else than rows of these columns.

    A folder may not be divided by others than `partition_by` either: its rows would stay beside the new ones.
    """
    try:
        problem = _problem(location, set(columns), partition_by)
    except FileNotFoundError:
        return
    except (pa.ArrowException, msgspec.DecodeError, SourceError) as exc:
        cause = exc.__context__
        if isinstance(cause, FileNotFoundError):  # in a store, or of a folder
            return
        # Arrow raises an OSError without a number for a damaged file.
        if cause and not isinstance(cause, _CONTENT) and getattr(cause, "errno", "") is not None:
            raise TargetError(str(exc)) from exc
        problem = str(exc)
    if problem:
        kind = "folder" if location.format == "dataset" else "file"
        raise TargetError(
            f"{location}: the {kind} exists and holds no {rows}: {problem}. Name another target"
        )


def _problem(location: FileLocation, columns: set[str], partition_by: Sequence[str]) -> str:
    path = location.path
    other = path.exists() and not (path.is_dir() if location.format == "dataset" else path.is_file())
    if not location.url and (other or path.is_symlink()):
        raise TargetError(f"{path} is a link or no regular file or folder: name it itself, or another one")
    if location.format != "dataset":
        names = _columns_of_file(location)
        return "" if columns <= {*names} or not names else f"it has the columns {', '.join(names)}"
    with store_errors(location, SourceError, "read"):
        if delta_table(location) is not None:
            names = open_dataset(location).schema.names
            return "" if columns <= {*names} else f"it has the columns {', '.join(names)}"
        if location.path.suffix == DELTA:
            return ""  # a commit deletes no file, also none that a killed run has left
        root, files = file_system(location)
        for file in files_in(location):
            name = file[len(root) :].strip("/")
            folders = [part.partition("=")[0] for part in name.split("/")[:-1]]
            try:
                with files.open_input_file(file) as stream:
                    names = [*pq.read_schema(stream).names, *folders]
            except pa.ArrowInvalid as exc:
                if _KILLED.search(name):
                    continue
                return f"{name} cannot be read as Parquet: {exc}"
            if not columns <= {*names}:
                return f"{name} has the columns {', '.join(names)}"
            if partition_by and folders != [*partition_by]:
                given = f"is not in folders of --partition-by {','.join(partition_by)}"
                reason = "its rows would stay beside the new ones. Name another target"
                raise TargetError(f"{location}: {name} {given}: {reason}")
    return ""


def _columns_of_file(location: FileLocation) -> list[str]:
    with store_errors(location, SourceError, "read"), open_file(location) as stream:
        if location.format == "parquet":
            return list(pq.read_schema(stream).names)
        if location.format == "csv":
            return CsvReader(TextLines(stream, str(location)), str(location)).columns
        return list(msgspec.json.decode(stream.readline() or b"{}", type=dict[str, msgspec.Raw]))
