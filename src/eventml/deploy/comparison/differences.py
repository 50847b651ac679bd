"""The differences between the predictions of two models for the same events."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_BINS: Final = 5  # of a feature that is a number, with as many events in each
_VALUES: Final = 20  # of another feature, the most frequent ones
_LEAST: Final = 20  # events in a group of a feature; fewer say nothing
_SHOWN: Final = 15  # groups of features, and pairs
_LONGEST: Final = 60  # characters of a value of a feature
_TOO_LARGE: Final = 1e300  # for a number: differences and their sums are finite. NaN is not below it either


class FieldDifference(msgspec.Struct, frozen=True):
    """How one field of the predictions differs.

    Attributes:
        field: Name of the field.
        equal: Share of the pairs in which it is equal.
        mean: Mean of the second model's values minus the first's, of the pairs in which both are numbers.
            None if there is none, or if a value is neither a number nor None.
        absolute: Mean of the absolute differences; None likewise.
        p50, p90, p99, largest: Quantiles of the absolute differences, and the largest one.
    """

    field: str
    equal: float
    mean: float | None = None
    absolute: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    largest: float | None = None


class FeatureDifference(msgspec.Struct, frozen=True):
    """How far the predictions differ for the events of one group of a feature's values.

    Attributes:
        feature: Name of the event's field.
        values: Its values in the group: one value, or `from … to`.
        events: Number of events in the group.
        absolute: Mean of the absolute differences of the compared field.
    """

    feature: str
    values: str
    events: int
    absolute: float


class Comparison(msgspec.Struct, frozen=True):
    """The differences between two models.

    Attributes:
        pairs: Events that both have answered.
        only_first, only_second: Events that only one of them has answered.
        fields: The differences of each field of the predictions.
        compared: The field that `features` and `worst` are about: the first that is a number; "" if none is.
        features: Groups of features, the largest difference first.
        worst: Ids of events, the largest difference first.
        histogram: Upper bounds of the absolute differences, with the number of pairs up to each.
    """

    pairs: int
    only_first: int
    only_second: int
    fields: Sequence[FieldDifference]
    compared: str = ""
    features: Sequence[FeatureDifference] = ()
    worst: Sequence[str] = ()
    histogram: Sequence[tuple[float, int]] = ()


def compare(
    first: Mapping[str, Mapping[str, Any]],
    second: Mapping[str, Mapping[str, Any]],
    events: Mapping[str, Mapping[str, Any]],
) -> Comparison:
    """Compare the predictions of two models, given by the id of the event; `events` has the features."""
    paired = [input_id for input_id in first if input_id in second]
    names = list(dict.fromkeys(name for input_id in paired for name in first[input_id]))
    columns = {
        name: [(first[input_id].get(name), second[input_id].get(name)) for input_id in paired]
        for name in names
    }
    fields = [_field_difference(name, column) for name, column in columns.items()]
    compared = next((one.field for one in fields if one.absolute is not None), "")
    counts = len(paired), len(first) - len(paired), len(second) - len(paired)
    if not compared:
        return Comparison(*counts, fields)
    sizes = {
        i: _distance(*pair) for i, pair in zip(paired, columns[compared], strict=True) if _are_numbers(pair)
    }
    features = [one for name in _features(events, paired) for one in _groups(name, events, sizes)]
    return Comparison(
        *counts,
        fields,
        compared,
        sorted(features, key=lambda one: -one.absolute)[:_SHOWN],
        sorted(sizes, key=lambda input_id: -sizes[input_id])[:_SHOWN],
        _histogram(list(sizes.values())),
    )


def _field_difference(name: str, pairs: Sequence[tuple[Any, Any]]) -> FieldDifference:
    equal = fmean(one == other for one, other in pairs)
    numbers = [pair for pair in pairs if _are_numbers(pair)]
    if not numbers or not all(value is None or _is_number(value) for pair in pairs for value in pair):
        return FieldDifference(name, equal)
    sizes = sorted(_distance(*pair) for pair in numbers)
    cuts = quantiles(sizes, n=100, method="inclusive") if len(sizes) > 1 else sizes * 99
    mean = fmean(other - one for one, other in numbers)
    return FieldDifference(name, equal, mean, fmean(sizes), cuts[49], cuts[89], cuts[98], sizes[-1])


def _distance(one: Any, other: Any) -> float:
    return abs(float(other) - float(one))


def _are_numbers(pair: tuple[Any, Any]) -> bool:
    return _is_number(pair[0]) and _is_number(pair[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _TOO_LARGE


def _features(events: Mapping[str, Mapping[str, Any]], ids: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name for input_id in ids for name in events.get(input_id, ())))


def _groups(
    name: str, events: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, float]
) -> Iterator[FeatureDifference]:
    values = {i: value for i in sizes if (value := events.get(i, {}).get(name)) is not None}
    numbers = {i: value for i, value in values.items() if _is_number(value)}
    grouped: dict[Any, list[float]] = defaultdict(list)  # by the number of a bin, or by the value as text
    bounds: list[float] = []
    if len(set(numbers.values())) > _VALUES:
        cuts = quantiles(numbers.values(), n=_BINS, method="inclusive")
        bounds = [min(numbers.values()), *cuts, max(numbers.values())]
        for input_id, value in numbers.items():
            grouped[bisect_right(cuts, value)].append(sizes[input_id])
    else:
        for input_id, value in values.items():
            grouped[str(value)].append(sizes[input_id])
    for key in sorted(grouped, key=lambda key: -len(grouped[key]))[:_VALUES]:
        found = grouped[key]
        text = f"{bounds[key]:.10g} … {bounds[key + 1]:.10g}" if bounds else key
        if len(found) >= _LEAST:
            shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
            yield FeatureDifference(name, shown, len(found), fmean(found))


def _histogram(sizes: Sequence[float]) -> list[tuple[float, int]]:
    """Twenty buckets of one width, from 0 to the 99th percentile; what is above is in the last one."""
    top = quantiles(sizes, n=100, method="inclusive")[98] if len(sizes) > 1 else max(sizes)
    width = (top or max(sizes) or 1.0) / 20
    counts = [0] * 20
    for size in sizes:
        counts[min(int(size / width), 19)] += 1
    return [(width * (number + 1), count) for number, count in enumerate(counts)]
