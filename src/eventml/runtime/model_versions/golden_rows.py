"""Golden rows: events, some with recorded predictions, that a model must answer before it is used."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from decimal import Decimal
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import msgspec

from eventml import records
from eventml.backends.base import Completion
from eventml.codec import Decoder
from eventml.errors import DecodeError, MissingExtraError, ModelError
from eventml.event_types import fields_of
from eventml.handlers import Handler
from eventml.models import Model, import_extra
from eventml.printable import cut
from eventml.records import Delivery, Record
from eventml.runtime.calls.caller import Item
from eventml.runtime.calls.handler_call import call_without_stream
from eventml.runtime.calls.output_checks import bare_prediction
from eventml.runtime.calls.outputs import answer_is_list, outputs_as_json
from eventml.runtime.failures.classification import Failed
from eventml.runtime.failures.exceptions import describe
from eventml.runtime.stats import Stats

PREDICTION: Final = "prediction"
"""The column of the recorded predictions."""


GoldenRows = tuple[list[Item], list[Any]]
"""The events, decoded as those of a stream, and the prediction that is recorded for each, or None."""


async def check_golden_rows(
    handler: Handler, model: Model, resources: Mapping[str, Any], rows: GoldenRows
) -> None:
    """Check that a model's predictions for the handler's golden rows are valid, and near the recorded ones.

    The rows are predicted as on a stream, in batches of `max_batch` at most: predictions must be finite and
    of the right type. Numbers may differ from the recorded ones by `golden_tolerance` at most; all else must
    be equal.

    Raises:
        ModelError: a prediction is not, and the message names its row.
    """
    items, recorded = rows
    call = call_without_stream(handler, model, resources, source="golden", stats=Stats())
    refused = f"model {model.name} {model.version} fails the golden rows in {handler.options.golden}"
    results: list[Any] = []
    try:
        while len(results) < len(items):
            results += await call(items[len(results) : len(results) + handler.max_batch])
    except Exception as exc:
        raise ModelError(f"{refused}: {describe(exc)}") from exc
    for number, (result, expected) in enumerate(zip(results, recorded, strict=True), 1):
        if isinstance(result, Failed):
            raise ModelError(f"{refused}: row {number}: {describe(result.error)}") from result.error
        if expected is None:
            continue
        predicted = _value(result)
        if not is_near(predicted, expected, handler.options.golden_tolerance):
            tolerance = f"golden_tolerance is {handler.options.golden_tolerance:g}"
            if isinstance(predicted, dict) and not isinstance(expected, dict):
                tolerance = "record an object that has some of these fields"
            raise ModelError(
                f"{refused}: row {number}: it predicts {_shown(predicted)}, and {_shown(expected)} is "
                f"recorded ({tolerance})"
            )


def read_golden_rows(path: str, handler: Handler) -> GoldenRows:
    """Read the golden rows of a handler from a file.

    The file is Parquet, or has a JSON object in each line. A field `prediction` is the recorded one, unless
    the event itself has such a field.

    Raises:
        ModelError: it cannot be read, is empty, or a row is no event.
        MissingExtraError: it is Parquet, and pyarrow is not installed.
    """
    try:
        read = msgspec.to_builtins(_rows(path), builtin_types=(Decimal,), enc_hook=_of_pandas)
    except MissingExtraError:
        raise
    except OSError as exc:
        raise ModelError(f"the rows in {path} cannot be read: {exc}") from exc
    except Exception as exc:  # pyarrow and msgspec have exceptions of their own
        read_from = "rows are read from Parquet (FILE.parquet), or from a JSON object in each line"
        raise ModelError(f"the rows in {path} cannot be read: {exc}; {read_from}") from exc
    if not read:
        raise ModelError(f"there are no rows in {path}; record at least one")
    own = {in_json for in_json, *_ in fields_of(handler.event_type) or ()}
    recorded = [None if PREDICTION in own else row.pop(PREDICTION, None) for row in read]
    values = map(msgspec.json.encode, read)
    headers, now = {records.CONTENT_TYPE: records.JSON}, time.time()
    deliveries = [
        Delivery(Record(handler.topic, value, None, f"golden/{n}", headers), 0, n, now)
        for n, value in enumerate(values, 1)
    ]
    events = Decoder(handler.event_type, strict=False).decode(deliveries)
    for number, event in enumerate(events, 1):
        if isinstance(event, DecodeError):
            raise ModelError(f"{path}: row {number} is no event of {handler.name}: {event}")
    return list(map(Item, deliveries, events)), recorded


def is_near(predicted: Any, expected: Any, tolerance: float) -> bool:
    """Whether a prediction is near the recorded one. Of an object the recorded fields are compared."""
    match expected:
        case Decimal():  # of a Parquet file; JSON has a number for it, or text
            return predicted == str(expected) or is_near(predicted, float(expected), tolerance)
        case dict():
            return isinstance(predicted, dict) and all(
                name in predicted and is_near(predicted[name], value, tolerance)
                for name, value in expected.items()
            )
        case list():
            same = isinstance(predicted, list) and len(predicted) == len(expected)
            return same and all(map(is_near, predicted, expected, repeat(tolerance)))
        case int() | float() if not isinstance(expected, bool):
            is_number = isinstance(predicted, int | float) and not isinstance(predicted, bool)
            return is_number and math.isclose(predicted, expected, rel_tol=0.0, abs_tol=tolerance)
    return bool(predicted == expected)


def _value(completion: Completion) -> Any:
    """The prediction for an event as JSON has it, or a list of several; a number without its object."""
    outputs = completion.outputs
    if answer_is_list(outputs, completion.delivery.record.id):
        return msgspec.json.decode(outputs_as_json(outputs))
    return bare_prediction(msgspec.json.decode(outputs[0].value))


def _shown(value: Any) -> str:
    # Not by msgspec, which has null for NaN; and short enough for a line of a log.
    return cut(json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":")), 80)


def _rows(path: str) -> list[Any]:
    if path.endswith(".parquet"):
        table = import_extra("pyarrow.parquet", "batch", f"reading {path}").read_table(path)
        return list(table.to_pylist())
    lines = Path(path).read_bytes().splitlines()
    return [msgspec.json.decode(line, type=dict[str, Any]) for line in lines if line.strip()]


def _of_pandas(value: Any) -> Any:
    """A time or an age of pandas, which pyarrow makes of nanoseconds, as one of Python."""
    for method in ("to_pydatetime", "to_pytimedelta"):
        if hasattr(value, method):
            return getattr(value.floor("us"), method)()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
