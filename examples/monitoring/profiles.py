"""Profile of a training sample: counts of each column, from which drift can be measured later."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from eventml.errors import EventMLError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

BINS: Final = 10
_MOST_VALUES: Final = 20
_PREDICTIONS: Final = 1_000

Counts = tuple[int, ...]


class ProfileError(EventMLError):
    """A profile cannot be read, or a column of it is missing. The message names it."""


class Numeric(msgspec.Struct, frozen=True, tag="numeric"):
    """A column of numbers, in bins.

    Attributes:
        edges: Edges between the bins, ascending. A number on an edge belongs to the bin above it.
        counts: Number of cells in each bin, and, last, of empty cells.
    """

    edges: tuple[float, ...]
    counts: Counts

    def count(self, column: Sequence[Any] | NDArray[Any]) -> Counts:
        """Return the number of cells of another column in each bin, and of empty cells."""
        numbers = _floats(column)
        known = numbers[~np.isnan(numbers)]
        indices = np.searchsorted(np.array(self.edges, float), known, side="right")
        counts = np.bincount(indices, minlength=len(self.edges) + 1)
        return (*counts.tolist(), len(numbers) - len(known))

    def labels(self) -> list[str]:
        """Return a description of each bin, in the order of the counts."""
        edges = [f"{edge:.4g}" for edge in self.edges]
        if not edges:
            return ["any", "empty"]
        between = [f"{low} to {high}" for low, high in pairwise(edges)]
        return [f"below {edges[0]}", *between, f"{edges[-1]} up", "empty"]


class Categorical(msgspec.Struct, frozen=True, tag="categorical"):
    """A column of categories.

    Attributes:
        values: The most frequent values of the sample.
        counts: Number of cells of each value, of all other values, and of empty cells.
    """

    values: tuple[str, ...]
    counts: Counts

    def count(self, column: Sequence[Any] | NDArray[Any]) -> Counts:
        """Return the number of cells of another column with each value, with other values, and empty."""
        cells = Counter(None if _is_empty(cell) else str(cell) for cell in _cells(column))
        empty = cells.pop(None, 0)
        named = [cells.pop(value, 0) for value in self.values]
        return (*named, cells.total(), empty)

    def labels(self) -> list[str]:
        """Return the values, in the order of the counts."""
        return [*self.values, "other", "empty"]


Feature = Numeric | Categorical


class Profile(msgspec.Struct, frozen=True):
    """Profile of a sample.

    Attributes:
        features: Profile of each column by name.
        predictions: Sorted predictions for the sample, or quantiles of them: enough for a histogram.
    """

    features: dict[str, Feature]
    predictions: tuple[float, ...] = ()


def profile(
    columns: Mapping[str, Sequence[Any] | NDArray[Any]], predictions: Sequence[float] | NDArray[Any] = ()
) -> Profile:
    """Make a profile of a sample.

    A column of numbers gets ten bins of about equal counts, or fewer if values repeat. Any other column is
    categorical, and so is a column without any value.

    Args:
        columns: Columns of equal length. None and NaN are empty cells.
        predictions: Predictions for the sample; more than 1,000 are reduced to quantiles.
    """
    features = {
        name: _numeric(column) if _is_numeric(column) else _named(column) for name, column in columns.items()
    }
    kept = np.sort(np.asarray(predictions, np.float64))
    if len(kept) > _PREDICTIONS:
        kept = np.quantile(kept, np.linspace(0, 1, _PREDICTIONS))
    return Profile(features, tuple(kept.tolist()))


def counted(profile: Profile, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> dict[str, Counts]:
    """Count another sample in the bins of a profile.

    Raises:
        ProfileError: A column of the profile is missing, or holds text instead of numbers.
            Other columns are ignored.
    """
    missing = [name for name in profile.features if name not in columns]
    if missing:
        raise ProfileError(
            f"the profile has a column {missing[0]!r}, but the sample has only: {', '.join(columns)}"
        )
    counts = {}
    for name, feature in profile.features.items():
        try:
            counts[name] = feature.count(columns[name])
        except (TypeError, ValueError) as exc:
            raise ProfileError(
                f"column {name!r} must hold numbers, as in the training sample: {exc}"
            ) from exc
    return counts


def encoded(profile: Profile) -> bytes:
    """Return a profile as JSON, to be saved beside the model."""
    return msgspec.json.encode(profile) + b"\n"


def load(path: Path) -> Profile:
    """Read a profile that `encoded` made.

    Raises:
        ProfileError: The file does not exist, or is not a profile.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except FileNotFoundError as exc:
        raise ProfileError(
            f"{path}: the profile of the training sample does not exist; train the model first"
        ) from exc
    except (OSError, msgspec.DecodeError) as exc:
        raise ProfileError(f"{path} is not a profile of a training sample: {exc}") from exc


def _numeric(column: Sequence[Any] | NDArray[Any]) -> Numeric:
    numbers = _floats(column)
    known = numbers[np.isfinite(numbers)]
    edges: tuple[float, ...] = ()
    if len(known):
        cuts = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
        edges = tuple(cuts[cuts > known.min()].tolist())  # no value is below the minimum
    return Numeric(edges, Numeric(edges, ()).count(numbers))


def _named(column: Sequence[Any] | NDArray[Any]) -> Categorical:
    cells = Counter(str(cell) for cell in _cells(column) if not _is_empty(cell))
    values = tuple(sorted(cells, key=lambda value: (-cells[value], value))[:_MOST_VALUES])
    return Categorical(values, Categorical(values, ()).count(column))


def _is_numeric(column: Sequence[Any] | NDArray[Any]) -> bool:
    """Whether a column holds numbers only; a column of empty cells is categorical."""
    known = [cell for cell in _cells(column) if not _is_empty(cell)]
    return bool(known) and all(isinstance(cell, int | float) for cell in known)


def _floats(column: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
    array = np.asarray(column)
    if array.dtype.kind == "O":
        array = np.array([np.nan if _is_empty(cell) else cell for cell in array.tolist()], np.float64)
    return array.astype(np.float64)


def _cells(column: Sequence[Any] | NDArray[Any]) -> list[Any]:
    cells: list[Any] = np.asarray(column, dtype=object).tolist()
    return cells


def _is_empty(cell: Any) -> bool:
    return cell is None or cell != cell  # noqa: PLR0124 - NaN, of any type, is not itself
