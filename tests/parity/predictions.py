"""Predictions in a form in which those of two deployments can be compared to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventml.records import PREDICTOR
from tests.parity.parity_app import FIELDS, bus

if TYPE_CHECKING:
    from eventml.records import Record


class Prediction(NamedTuple):
    """One prediction.

    Attributes:
        number: The number in hexadecimal, which shows all its bits.
        id: Id of the prediction.
    """

    number: str
    id: str


Predictions = dict[str, dict[str, Prediction]]
"""Predictions by predictor and ride."""


def prediction(predictor: str, output: Any, id_: str) -> Prediction:
    """Return the prediction of an output as it is decoded from JSON or read from a table."""
    return Prediction(float(output[FIELDS.get(predictor, "value")]).hex(), id_)


class PredictionReader:
    """Collects predictions from their records.

    Attributes:
        predictions: The predictions by predictor and ride.
        duplicates: Ids of predictions that came more than once.
    """

    def __init__(self) -> None:
        self.predictions: Predictions = {name: {} for name in bus.handlers}
        self.duplicates: list[str] = []

    def add(self, record: Record) -> None:
        predictor = record.headers[PREDICTOR]
        ride = record.id.partition("/")[0]
        if ride in self.predictions[predictor]:
            self.duplicates.append(record.id)
        self.predictions[predictor][ride] = prediction(
            predictor, msgspec.json.decode(record.value), record.id
        )
