"""Whether a run may replace the files at its target: only predictions of an earlier run."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from eventml.deploy.batch.csv_reader import CsvReader, TextLines
from eventml.deploy.batch.datasets import columns_of
from eventml.deploy.batch.locations import FileLocation
from eventml.deploy.batch.stores import open_file
from eventml.errors import SourceError, TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence


def is_in_source(target: FileLocation, source: FileLocation) -> bool:
    """Return whether a target is the source, or lies in the folder that is the source."""
    if target.url or source.url:
        return f"{target.url.rstrip('/')}/".startswith(f"{source.url.rstrip('/')}/")
    same = target.path.exists() and target.path.samefile(source.path)
    return same or source.path.resolve() in target.path.resolve().parents


def check_replaceable(location: FileLocation, columns: Sequence[str], rows: str) -> None:
    """Raise TargetError if there is a link, or a file or folder of rows without these columns."""
    try:
        names = columns_of(location) if location.format == "dataset" else _columns_of_file(location)
    except FileNotFoundError:
        return
    except (pa.ArrowException, msgspec.DecodeError, SourceError) as exc:
        if isinstance(exc.__cause__, FileNotFoundError):  # in a store, or of a folder
            return
        problem = str(exc)
    else:
        problem = f"it has the columns {', '.join(names)}"
        if not names or set(columns) <= set(names):
            return
    kind = "folder" if location.format == "dataset" else "file"
    raise TargetError(f"{location}: the {kind} exists and holds no {rows}: {problem}. Name another target")


def _columns_of_file(location: FileLocation) -> list[str]:
    path = location.path
    if not location.url and not stat.S_ISREG(path.lstat().st_mode):
        raise TargetError(f"{path} is a link or no regular file: name the file itself, or another one")
    with open_file(location) as stream:
        if location.format == "parquet":
            return list(pq.read_schema(stream).names)
        if location.format == "csv":
            return CsvReader(TextLines(stream, str(path)), str(path)).columns
        return list(msgspec.json.decode(stream.readline() or b"{}", type=dict[str, msgspec.Raw]))
