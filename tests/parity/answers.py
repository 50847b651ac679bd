"""What a way of deploying answers, in a form in which two ways can be compared to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventml.records import PREDICTOR
from tests.parity.parity_app import FIELDS, bus

if TYPE_CHECKING:
    from eventml.records import Record


class Answer(NamedTuple):
    """One prediction.

    Attributes:
        number: The number in hexadecimal: all its bits, and a difference that can be read.
        id: The prediction's id.
    """

    number: str
    id: str


Answers = dict[str, dict[str, Answer]]
"""By predictor and ride."""


def answer(predictor: str, output: Any, id_: str) -> Answer:
    """From an output as JSON or a table has it."""
    return Answer(float(output[FIELDS.get(predictor, "value")]).hex(), id_)


class Answered:
    """Collects the records of predictions.

    Attributes:
        answers: By predictor and ride.
        twice: The ids of those that came more than once.
    """

    def __init__(self) -> None:
        self.answers: Answers = {name: {} for name in bus.handlers}
        self.twice: list[str] = []

    def note(self, record: Record) -> None:
        predictor = record.headers[PREDICTOR]
        ride = record.id.partition("/")[0]
        if ride in self.answers[predictor]:
            self.twice.append(record.id)
        self.answers[predictor][ride] = answer(predictor, msgspec.json.decode(record.value), record.id)
