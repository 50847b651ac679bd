"""The differences between the predictions of two models for the same events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from eventml.deploy.comparison.answers import FIELD, array_of, fields_of_rows, in_order_of, with_ids_of

_BINS: Final = 5  # of a feature that is a number, with as many events in each
_VALUES: Final = 20  # of another feature, the most frequent ones
_LEAST: Final = 20  # events in a group of a feature; fewer say nothing
_SAMPLE: Final = 1_000  # of a feature; texts of which no two are equal have no groups
_SHOWN: Final = 15  # groups of features, and events
_LONGEST: Final = 60  # characters of a value of a feature


class FieldDifference(msgspec.Struct, frozen=True):
    """How one field of the predictions differs: the share of equal ones, and, of numbers, second minus first.

    `absolute`, the quantiles and `largest` are of absolute differences. All are None if no pair has numbers,
    or a value is neither a number nor None.
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
    """The mean absolute difference for events of one value of a feature, or of values `from … to`."""

    feature: str
    values: str
    events: int
    absolute: float


class LargeDifference(msgspec.Struct, frozen=True):
    """An event for which the predictions differ much: its id, and both predictions."""

    event: str
    first: float
    second: float


class Comparison(msgspec.Struct, frozen=True):
    """The differences between two models.

    Attributes:
        pairs: Events that both have answered.
        only_first, only_second: Events that only one of them has answered.
        fields: The differences of each field of the predictions.
        compared: The field that the rest is about: the first that is a number; "" if none is.
        features: Groups of features, the largest difference first.
        worst: The largest differences, the largest first.
    """

    pairs: int
    only_first: int
    only_second: int
    fields: Sequence[FieldDifference]
    compared: str = ""
    features: Sequence[FeatureDifference] = ()
    worst: Sequence[LargeDifference] = ()


def pair(events: pa.Table, first: pa.Table, second: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table]:
    """The rows of the events that both models have answered: a row for each in every table, in one order."""
    both = with_ids_of(first, second)
    return in_order_of(events, both["id"]), both, in_order_of(second, both["id"])


def compare(events: pa.Table, first: pa.Table, second: pa.Table) -> Comparison:
    """Compare the predictions of two models for some events. No id is in one of the tables twice."""
    answered = len(first), len(second)
    events, first, second = pair(events, first, second)
    counts = len(first), answered[0] - len(first), answered[1] - len(first)
    names = fields_of_rows(first) if len(first) else []
    missing = pa.chunked_array([pa.nulls(len(first))])
    columns = {
        name: (first[FIELD + name], second[FIELD + name] if name in fields_of_rows(second) else missing)
        for name in names
    }
    distances = {name: _distances(*pair) for name, pair in columns.items()}
    fields = [_field_difference(name, *columns[name], distances[name]) for name in names]
    compared = next((one.field for one in fields if one.absolute is not None), "")
    if not compared:
        return Comparison(*counts, fields)
    known = pc.is_valid(distances[compared])
    sizes = pc.abs(distances[compared].filter(known))
    features = [
        group
        for name in fields_of_rows(events)
        for group in _groups(name, events[FIELD + name].filter(known), sizes)
    ]
    largest = pc.select_k_unstable(sizes, _SHOWN, sort_keys=[("", "descending")])
    worst = [column.filter(known).take(largest).to_pylist() for column in (first["id"], *columns[compared])]
    return Comparison(
        *counts,
        fields,
        compared,
        sorted(features, key=lambda one: -one.absolute)[:_SHOWN],
        list(map(LargeDifference, *worst)),
    )


def _is_number(column: Any) -> bool:
    kind = column.type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def _distances(one: Any, other: Any) -> Any:
    """The second value minus the first, null where one is missing; None if they are no numbers."""
    if not (_is_number(one) and _is_number(other)):
        return None
    distances = pc.subtract(*(column.cast(pa.float64(), safe=False) for column in (other, one)))
    # Those of the largest numbers have no difference that is finite, and so none in JSON.
    finite = len(distances) > distances.null_count and pc.is_finite(pc.sum(pc.abs(distances))).as_py()
    return distances if finite else None


def _field_difference(name: str, one: Any, other: Any, distances: Any) -> FieldDifference:
    try:
        equal = pc.fill_null(pc.equal(one, other), fill_value=False)
    except (NotImplementedError, ValueError, TypeError):  # Arrow's, for objects and lists, and for two types
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        equal = pa.array([a == b and a is not None for a, b in pairs])
    equal = pc.or_(equal, pc.and_(pc.is_null(one), pc.is_null(other)))
    share = pc.mean(equal.cast(pa.int8())).as_py()
    if distances is None:
        return FieldDifference(name, share)
    sizes = pc.abs(distances)
    quantiles = pc.quantile(sizes, [0.5, 0.9, 0.99, 1.0]).to_pylist()
    return FieldDifference(name, share, pc.mean(distances).as_py(), pc.mean(sizes).as_py(), *quantiles)


def _groups(name: str, values: Any, sizes: Any) -> Iterator[FeatureDifference]:
    if pa.types.is_nested(values.type):
        values = array_of([None if value is None else str(value) for value in values.to_pylist()])
    bounds: list[float] = []
    some = pc.count_distinct(values.slice(0, _SAMPLE)).as_py()
    if not _is_number(values) and some == _SAMPLE:
        return  # names of single events
    if _is_number(values) and (some > _VALUES or pc.count_distinct(values).as_py() > _VALUES):
        bounds = pc.quantile(values, [number / _BINS for number in range(_BINS + 1)]).to_pylist()
        above = [pc.greater_equal(values, bound).cast(pa.int8()) for bound in bounds[1:-1]]
        values = reduce(pc.add, above)
    counted = pa.table({"key": values, "size": sizes}).group_by("key")
    found = counted.aggregate([("size", "count"), ("size", "mean")]).filter(pc.field("size_count") >= _LEAST)
    for group in found.sort_by([("size_count", "descending")]).slice(0, _VALUES + 1).to_pylist():
        if (key := group["key"]) is not None:
            text = f"{bounds[key]:.10g} … {bounds[key + 1]:.10g}" if bounds else str(key)
            shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
            yield FeatureDifference(name, shown, group["size_count"], group["size_mean"])
