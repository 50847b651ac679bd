"""An app whose behaviour the test chooses by its events and its environment.

What a prediction is made of: the number, the process, the version of the model.
"""

import os
import time
from pathlib import Path
from typing import Any

import msgspec

from eventml import Artefact, Bus

NAME = os.environ["APP"]
bus = Bus(NAME)


class Number(msgspec.Struct):
    number: int
    do: str = ""
    """`hang`: sleep for long; `die`: kill the worker."""


class Answer(msgspec.Struct):
    number: int
    pid: int


def model() -> Any:
    time.sleep(float(os.environ.get("BOOT", "0")))
    if os.environ.get("BOOT_ABORTS"):
        os.abort()
    return {"factor": 2}


SOURCE: Any = Artefact(Path(os.environ["MODEL"])) if "MODEL" in os.environ else model


@bus.predictor(
    f"{NAME}.numbers",
    to=f"{NAME}.answers",
    model=SOURCE,
    max_batch=int(os.environ.get("MAX_BATCH", "64")),
)
def answer(numbers: list[Number], model: Any) -> list[Answer]:
    time.sleep(float(os.environ.get("SLEEP", "0")))
    for number in numbers:
        if number.do == "hang":
            time.sleep(1000)
        if number.do == "die":
            os._exit(66)
    return [Answer(number.number, os.getpid()) for number in numbers]


if os.environ.get("SECOND"):

    @bus.predictor(f"{NAME}.numbers", to=f"{NAME}.echoes")
    async def echo(number: Number) -> Answer:
        if number.do == "block":
            time.sleep(1000)  # noqa: ASYNC251 - blocking the event loop is the point
        return Answer(number.number, os.getpid())
