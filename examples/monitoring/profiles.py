"""A training sample, remembered as counts: enough to tell drift by, and small enough to keep."""

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
    """A profile cannot be read, or a column that it knows is missing. The message names which."""


class Numeric(msgspec.Struct, frozen=True, tag="numeric"):
    """A column of numbers, in bins.

    Attributes:
        edges: Between the bins, rising. A number on an edge belongs to the bin above it.
        counts: How many numbers the sample had in each bin, and last, how many cells were empty.
    """

    edges: tuple[float, ...]
    counts: Counts

    def count(self, column: Sequence[Any] | NDArray[Any]) -> Counts:
        """How many cells of another sample's column fall into each bin."""
        numbers = _floats(column)
        known = numbers[~np.isnan(numbers)]
        places = np.searchsorted(np.array(self.edges, float), known, side="right")
        counts = np.bincount(places, minlength=len(self.edges) + 1)
        return (*counts.tolist(), len(numbers) - len(known))

    def labels(self) -> list[str]:
        """The bins in words, in the order of the counts."""
        edges = [f"{edge:.4g}" for edge in self.edges]
        if not edges:
            return ["any", "empty"]
        between = [f"{low} to {high}" for low, high in pairwise(edges)]
        return [f"below {edges[0]}", *between, f"{edges[-1]} up", "empty"]


class Categorical(msgspec.Struct, frozen=True, tag="categorical"):
    """A column of names, by name.

    Attributes:
        values: The sample's most frequent ones.
        counts: How many cells held each; then how many held any other name, and how many were empty.
    """

    values: tuple[str, ...]
    counts: Counts

    def count(self, column: Sequence[Any] | NDArray[Any]) -> Counts:
        """How many cells of another sample's column hold each of the values."""
        cells = Counter(None if _is_empty(cell) else str(cell) for cell in _cells(column))
        empty = cells.pop(None, 0)
        named = [cells.pop(value, 0) for value in self.values]
        return (*named, cells.total(), empty)

    def labels(self) -> list[str]:
        """The values, in the order of the counts."""
        return [*self.values, "other", "empty"]


Feature = Numeric | Categorical


class Profile(msgspec.Struct, frozen=True):
    """A sample.

    Attributes:
        features: Its columns, by name.
        predictions: What the model says of it, rising: as many as it takes to draw their histogram.
    """

    features: dict[str, Feature]
    predictions: tuple[float, ...] = ()


def profile(
    columns: Mapping[str, Sequence[Any] | NDArray[Any]], predictions: Sequence[float] | NDArray[Any] = ()
) -> Profile:
    """Remember a sample.

    A column of numbers gets ten bins of about as many cells each, fewer where its values repeat. Any
    other column is taken as names, and so is one without a single value.

    Args:
        columns: The sample's columns, of one length. None and NaN are empty cells.
        predictions: What the model says of it; of many, so many quantiles are kept.
    """
    features = {
        name: _numeric(column) if _is_numeric(column) else _named(column) for name, column in columns.items()
    }
    kept = np.sort(np.asarray(predictions, np.float64))
    if len(kept) > _PREDICTIONS:
        kept = np.quantile(kept, np.linspace(0, 1, _PREDICTIONS))
    return Profile(features, tuple(kept.tolist()))


def counted(profile: Profile, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> dict[str, Counts]:
    """Another sample, counted the way that a profile was.

    Raises:
        ProfileError: A column of the profile is not there, or holds names where it held numbers.
            Further columns are passed over.
    """
    missing = [name for name in profile.features if name not in columns]
    if missing:
        raise ProfileError(
            f"no column {missing[0]!r}, which the profile has; there are: {', '.join(columns)}"
        )
    counts = {}
    for name, feature in profile.features.items():
        try:
            counts[name] = feature.count(columns[name])
        except (TypeError, ValueError) as exc:
            raise ProfileError(f"column {name!r} held numbers in the training sample: {exc}") from exc
    return counts


def encoded(profile: Profile) -> bytes:
    """A profile as JSON, to be written beside the model."""
    return msgspec.json.encode(profile) + b"\n"


def load(path: Path) -> Profile:
    """Read a profile, as `encoded` made it.

    Raises:
        ProfileError: There is none, or it is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except FileNotFoundError as exc:
        raise ProfileError(f"{path}: there is no profile of a training sample; train first") from exc
    except (OSError, msgspec.DecodeError) as exc:
        raise ProfileError(f"{path} is no profile of a training sample: {exc}") from exc


def _numeric(column: Sequence[Any] | NDArray[Any]) -> Numeric:
    numbers = _floats(column)
    known = numbers[np.isfinite(numbers)]
    edges: tuple[float, ...] = ()
    if len(known):
        cuts = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
        edges = tuple(cuts[cuts > known.min()].tolist())  # below the least there would be nothing
    return Numeric(edges, Numeric(edges, ()).count(numbers))


def _named(column: Sequence[Any] | NDArray[Any]) -> Categorical:
    cells = Counter(str(cell) for cell in _cells(column) if not _is_empty(cell))
    values = tuple(sorted(cells, key=lambda value: (-cells[value], value))[:_MOST_VALUES])
    return Categorical(values, Categorical(values, ()).count(column))


def _is_numeric(column: Sequence[Any] | NDArray[Any]) -> bool:
    """Whether there are numbers in it and nothing else; a column of nothing is one of names, all missing."""
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
