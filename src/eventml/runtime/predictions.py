"""The distribution of a predictor's predictions: the numbers of some of them, counted by bucket.

The buckets are those of the profile, the predictions that are recorded in the golden rows. Without any, they
end at 1, 2 and 5 times the powers of ten.
"""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final

import msgspec

from eventml import records
from eventml.backends.base import Completion
from eventml.event_types import fields_of
from eventml.records import Record
from eventml.runtime.calls.output_checks import bare_prediction
from eventml.runtime.failures.classification import CallResults
from eventml.runtime.stats import Histogram

_SAMPLES: Final = 4  # of each batch, 2 µs each
_LONGEST: Final = 2000  # bytes of a prediction that is decoded for its number
_LARGEST: Final = 1e100  # a number that is counted is smaller, so that sums stay finite
_NUMBERS: Final = (
    (float, float | None, Decimal),
    (int, int | None),
)  # a float field is preferred to an integer field
_BUCKETS: Final = 20  # between the lowest and the highest number of a profile; fewer, as their ends are round
_POSITIVE: Final = [float(f"{digit}e{power}") for power in range(-3, 6) for digit in (1, 2, 5)] + [1e6]
_BOUNDS: Final = (*(-bound for bound in reversed(_POSITIVE)), 0.0, *_POSITIVE)


class Profile(msgspec.Struct, frozen=True):
    """The recorded predictions of a handler, which those on the stream are compared with.

    Attributes:
        bounds: Upper bounds of the buckets, rising; one more bucket takes the numbers above the last one.
        counts: How many recorded predictions each bucket has; empty if none is recorded.
        field: The field of objects, as JSON names it, that has their number; empty if no field is known.
    """

    bounds: Sequence[float] = _BOUNDS
    counts: Sequence[float] = ()
    field: str = ""


def profile_of(predictions: Sequence[Any], output_types: Iterable[Any] = ()) -> Profile:
    """Return the profile of predictions as JSON has them; those without a number are left out.

    That of an object is the first field that a type annotates as a float, else as an integer. If no type has
    fields, the values of the first object decide.
    """
    first = next((one for one in map(bare_prediction, predictions) if isinstance(one, dict)), {})
    known: list[tuple[str, Any]] = []
    with suppress(Exception):  # of annotations that cannot be read, as nothing else needs them
        known = [(name, hint) for type_ in output_types for name, _, hint in fields_of(type_) or ()]
    known = known or [(name, type(value)) for name, value in first.items()]
    field = next((name for kinds in _NUMBERS for name, hint in known if hint in kinds), "")
    numbers = [n for one in predictions if (n := prediction_number(one, field)) is not None]
    bounds = _round_bounds(min(numbers), max(numbers)) if numbers else _BOUNDS
    counts = [0.0] * (len(bounds) + 1) if numbers else []
    for number in numbers:
        counts[bisect_left(bounds, number)] += 1
    return Profile(bounds, counts, field)


def _round_bounds(low: float, high: float) -> Sequence[float]:
    """Return bounds of buckets of one width, round numbers, from the lowest to the highest number."""
    width = (high - low) / _BUCKETS
    if width <= 1e-9 * max(abs(low), abs(high)) or width < 1 / _LARGEST:
        return _BOUNDS  # all are the same, or nearly
    power = 10.0 ** math.floor(math.log10(width))
    step = next(power * n for n in (1, 2, 5, 10, 20) if power * n >= width)
    return [float(f"{step * n:.12g}") for n in range(math.floor(low / step), math.ceil(high / step) + 1)]


def prediction_number(value: Any, field: str = "") -> float | None:
    """Return the number of a prediction as JSON has it: itself, or the value of that field of an object."""
    value = bare_prediction(value)
    value = value.get(field) if isinstance(value, dict) else value
    value = float(value) if isinstance(value, Decimal) else value
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < _LARGEST else None


def decode_prediction(record: Record) -> Any:
    """Return the value of an output, as JSON has it."""
    packed = record.headers[records.CONTENT_TYPE] == records.MSGPACK
    return (msgspec.msgpack if packed else msgspec.json).decode(record.value)


def count_predictions(results: CallResults, histogram: Histogram, field: str = "") -> None:
    """Count a sample of the predictions of a batch, evenly spaced and weighted to the size of the batch."""
    sample = results[:: -(-len(results) // _SAMPLES) or 1]
    for one in sample:
        if isinstance(one, Completion) and one.outputs and len(one.outputs[0].value) <= _LONGEST:
            try:
                number = prediction_number(decode_prediction(one.outputs[0]), field)
            except (msgspec.MsgspecError, RecursionError):  # nearly too deep to be encoded
                continue
            if number is not None:
                histogram.add(number, len(results) / len(sample))
