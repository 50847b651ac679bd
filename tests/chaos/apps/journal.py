"""An app that writes down which events are in each call, with the time, in a file of its process."""

import os
import threading
import time
from pathlib import Path

import msgspec

from eventml import Bus

NAME = os.environ["APP"]
JOURNAL = Path(os.environ["JOURNAL"])

bus = Bus(NAME)
_file = os.open(JOURNAL / f"{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


class Number(msgspec.Struct):
    number: int


def note(what: str, numbers: list[Number]) -> None:
    # The monotonic clock is the same for all processes of a machine, and no jump of the other one moves it.
    line = msgspec.json.encode([what, time.monotonic(), [number.number for number in numbers]])
    os.write(_file, line + b"\n")


@bus.predictor(f"{NAME}.numbers", to=f"{NAME}.answers", max_batch=int(os.environ["MAX_BATCH"]))
def answer(numbers: list[Number]) -> list[Number]:
    note("invoked", numbers)
    threading.Event().wait(
        0.02
    )  # so that a worker that dies has events in flight; libfaketime breaks time.sleep
    note("ok", numbers)
    return numbers
