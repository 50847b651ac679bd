"""An app that adds a number of its model's to each number, and follows its model file."""

import os
from typing import Any

import msgspec

from eventml import Bus

NAME = os.environ["APP"]
bus = Bus(NAME)


class Number(msgspec.Struct):
    number: int


class Sum(msgspec.Struct):
    number: int
    total: float
    pid: int


@bus.predictor(
    f"{NAME}.numbers",
    to=f"{NAME}.answers",
    model=os.environ["MODEL"],
    model_poll=0.2,
    golden=os.environ["GOLDEN"],
    max_batch=64,
)
def add(numbers: list[Number], model: Any) -> list[Sum]:
    totals = model.predict([[float(number.number)] for number in numbers])
    return [Sum(n.number, float(total), os.getpid()) for n, total in zip(numbers, totals, strict=True)]
