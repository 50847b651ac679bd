"""An app whose behaviour tests choose by its events and its environment."""

import os
import time
from pathlib import Path
from typing import Any

import msgspec

from eventml import Artefact, Bus, Model

NAME = os.environ["APP"]
FORGIVING = bool(os.environ.get("FORGIVING"))
"""Whether events are answered whatever they ask for."""

bus = Bus(NAME)


class Number(msgspec.Struct):
    number: int
    do: str = ""
    """`hang`: sleep for long; `die`: kill the worker."""


class Answer(msgspec.Struct):
    number: int
    pid: int
    value: float = 0.0
    """Prediction of the model for 1."""


def model() -> Any:
    time.sleep(float(os.environ.get("BOOT", "0")))
    if os.environ.get("BOOT_ABORTS"):
        os.abort()
    return {"factor": 2}


class Slope:
    """A model that needs no library: a file with a number."""

    def __init__(self, text: str) -> None:
        self.slope = float(text)

    def predict(self, rows: list[list[float]]) -> list[float]:
        return [self.slope * x for [x] in rows]


def slope() -> Model:
    text = FILE.read_text()
    return Model(Slope(text), "slope", text)


FILE = Path(os.environ.get("MODEL", ""))
SOURCE: Any = Artefact(FILE) if FILE.suffix == ".skops" else slope if FILE.name else model


@bus.predictor(
    f"{NAME}.numbers",
    to=f"{NAME}.answers",
    model=SOURCE,
    max_batch=int(os.environ.get("MAX_BATCH", "64")),
    timeout=float(os.environ["TIMEOUT"]) if "TIMEOUT" in os.environ else None,
    retries=int(os.environ.get("RETRIES", "2")),
    max_deliveries=int(os.environ.get("MAX_DELIVERIES", "5")),
)
def answer(numbers: list[Number], model: Any) -> list[Answer]:
    time.sleep(float(os.environ.get("SLEEP", "0")))
    for number in numbers:
        if number.do == "hang" and not FORGIVING:
            time.sleep(1000)
        if number.do == "die" and not FORGIVING:
            os._exit(66)
    value = float(model.predict([[1.0]])[0]) if hasattr(model, "predict") else 0.0
    return [Answer(number.number, os.getpid(), value) for number in numbers]


if os.environ.get("SECOND"):

    @bus.predictor(f"{NAME}.numbers", to=f"{NAME}.echoes")
    async def echo(number: Number) -> Answer:
        if number.do == "block":
            time.sleep(1000)  # noqa: ASYNC251 - blocking the event loop is the point
        return Answer(number.number, os.getpid())


def make_bus() -> Bus:
    """Return the bus, as an app factory."""
    return bus
