"""An app that adds 1 to each number, and whose canary adds 10."""

import os
from typing import Any

import msgspec

from eventml import Bus, Model

NAME = os.environ["APP"]
bus = Bus(NAME)


class Number(msgspec.Struct):
    number: int


class Sum(msgspec.Struct):
    number: int
    total: int


@bus.predictor(f"{NAME}.numbers", to=f"{NAME}.answers", model=Model(1, "adding", "one"))
def answer(numbers: list[Number], model: Any) -> list[Sum]:
    return [Sum(number.number, number.number + model) for number in numbers]


bus.canary("answer", model=Model(10, "adding", "ten"), share=0.0)
