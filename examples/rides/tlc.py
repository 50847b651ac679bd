"""Read trips from files of the New York City Taxi and Limousine Commission (TLC): CSV or Parquet."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eventml.errors import MissingExtraError
from examples.rides.trips import CARD, Trips, TripsError, join

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

# The TLC's names depend on the kind of taxi (tpep_ is yellow, lpep_ green, hire cars have no prefix);
# the names in lower case are common in tables made from its files.
SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "pickup_datetime": ("pickup_datetime", "tpep_pickup_datetime", "lpep_pickup_datetime"),
    "dropoff_datetime": ("dropoff_datetime", "tpep_dropoff_datetime", "lpep_dropoff_datetime"),
    "pickup_location_id": ("pickup_location_id", "PULocationID"),
    "dropoff_location_id": ("dropoff_location_id", "DOLocationID"),
    "trip_distance": ("trip_distance", "trip_miles"),
    "tip_amount": ("tip_amount", "tips"),
    "fare_amount": ("fare_amount", "base_passenger_fare"),
    "passenger_count": ("passenger_count",),
    "payment_type": ("payment_type",),
}
_MAY_BE_ABSENT: Final = frozenset({"fare_amount", "passenger_count", "payment_type"})
_TIMES: Final = frozenset({"pickup_datetime", "dropoff_datetime"})


def read(files: Iterable[str | Path], *, at_most: int | None = None) -> Trips:
    """Read the trips of TLC files, one after the other.

    Columns may have any of the names in `SPELLINGS`, in upper or lower case; the passenger count, the fare
    and the payment type may be missing. Empty cells, empty columns and counts written as floats are
    accepted. A cell that is not a number or time counts as empty, and a CSV row with too few or too many
    cells is skipped; one warning for each column or file is logged.

    Args:
        files: CSV, possibly compressed (`.csv.gz`), or Parquet; the content decides, not the name.
        at_most: Highest number of trips from each file, spread evenly over it; None for all.

    Raises:
        TripsError: A file is missing, empty, neither CSV nor Parquet, or lacks a column.
        MissingExtraError: pyarrow is not installed.
    """
    parts = [_read(Path(file), at_most) for file in files]
    if not parts:
        raise TripsError("no trip files were named")
    return join(parts)


def _read(path: Path, at_most: int | None) -> Trips:
    try:
        import pyarrow as pa  # noqa: PLC0415 - only needed to read files
    except ImportError as exc:
        raise MissingExtraError("batch", "reading trip files") from exc
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if not head:
            raise TripsError(f"{path} is empty")
        table = _parquet(path) if head == b"PAR1" else _csv(path)
    except FileNotFoundError as exc:
        raise TripsError(f"{path}: the file does not exist") from exc
    except IsADirectoryError as exc:
        raise TripsError(f"{path} is a directory; name the files in it") from exc
    except (OSError, pa.ArrowException) as exc:
        raise TripsError(f"{path} cannot be read as CSV or Parquet: {exc}") from exc
    if not table.num_rows:
        raise TripsError(f"{path} holds no trips")
    rows = np.arange(table.num_rows)
    if at_most is not None and at_most < len(rows):
        rows = np.linspace(0, len(rows) - 1, at_most).astype(np.int64)
        table = table.take(rows)
    columns = {name: _column(path, table, name) for name in SPELLINGS}
    return Trips((_stem(path),), np.zeros(len(rows), np.int64), rows, **columns)


def _parquet(path: Path) -> Any:
    from pyarrow import parquet  # noqa: PLC0415 - see _read

    with parquet.ParquetFile(path) as file:
        found = _found(path, file.schema_arrow.names)
        return (
            file.read(columns=list(found.values())).select(list(found.values())).rename_columns(list(found))
        )


def _csv(path: Path) -> Any:
    """Read the columns as text: a cell that cannot be parsed must not prevent reading the other trips."""
    import pyarrow as pa  # noqa: PLC0415 - see _read
    from pyarrow import csv  # noqa: PLC0415 - see _read

    skipped: list[Any] = []

    def skip(row: Any) -> str:
        skipped.append(row)
        return "skip"

    parse = csv.ParseOptions(invalid_row_handler=skip)
    with csv.open_csv(path, parse_options=parse) as file:
        found = _found(path, file.schema.names)
    skipped.clear()
    convert = csv.ConvertOptions(
        include_columns=list(found.values()),
        column_types=dict.fromkeys(found.values(), pa.string()),
        strings_can_be_null=True,
    )
    table = csv.read_csv(path, parse_options=parse, convert_options=convert)
    if skipped:
        log.warning("%s: skipped %d rows with too few or too many cells", path.name, len(skipped))
    return table.rename_columns(list(found))


def _found(path: Path, names: list[str]) -> dict[str, str]:
    """Return the name in the file of each of our columns that it has."""
    there = {name.strip().casefold(): name for name in names}
    found = {}
    for column, spellings in SPELLINGS.items():
        matching = [there[spelling.casefold()] for spelling in spellings if spelling.casefold() in there]
        if matching:
            found[column] = matching[0]
        elif column not in _MAY_BE_ABSENT:
            known_names = ", ".join(spellings)
            raise TripsError(
                f"{path} has no column {column} (or {known_names}); its columns are {', '.join(names)}"
            )
    return found


def _column(path: Path, table: Any, name: str) -> NDArray[Any]:
    import pyarrow as pa  # noqa: PLC0415 - see _read
    from pyarrow import compute as pc  # noqa: PLC0415 - see _read

    if name not in table.column_names:
        # Only hire cars have no payment type: they are paid through an app, and their tips are recorded.
        return np.full(table.num_rows, CARD if name == "payment_type" else np.nan, np.float64)
    cells = table[name]
    wanted = pa.timestamp("us") if name in _TIMES else pa.float64()
    try:
        parsed = pc.cast(cells, wanted, safe=False)
    except pa.ArrowNotImplementedError as exc:
        kind = "times" if name in _TIMES else "numbers"
        raise TripsError(f"{path}: column {name} holds {cells.type} and not {kind}") from exc
    except pa.ArrowInvalid:
        parsed = _parse_where_possible(cells, wanted)
        lost = pc.and_(cells.is_valid(), parsed.is_null())
        count, first = pc.sum(lost).as_py(), cells.filter(lost)[:1].to_pylist()
        if count:
            message = "%s: %d cells of column %s cannot be parsed and count as empty; the first is %r"
            log.warning(message, path.name, count, name, first[0])
    numbers: NDArray[Any] = parsed.to_numpy()
    return _in_calendar(numbers) if name in _TIMES else numbers


def _parse_where_possible(cells: Any, wanted: Any) -> Any:
    from pyarrow import compute as pc  # noqa: PLC0415 - see _read

    text = pc.utf8_trim_whitespace(cells.cast("string"))
    if str(wanted).startswith("timestamp"):
        return pc.strptime(
            pc.replace_substring(text, "T", " "), "%Y-%m-%d %H:%M:%S", "us", error_is_null=True
        )
    is_number = pc.match_substring_regex(text, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
    return pc.if_else(is_number, text, None).cast(wanted)


def _in_calendar(times: NDArray[Any]) -> NDArray[Any]:
    """Return the times with those that Python's datetime cannot hold as empty."""
    held = (times >= np.datetime64("0001-01-01")) & (times < np.datetime64("10000-01-01"))
    return np.where(held, times, np.datetime64("NaT", "us"))


def _stem(path: Path) -> str:
    return path.name.split(".", maxsplit=1)[0]
