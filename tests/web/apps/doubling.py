"""An app that doubles numbers, or fails as an event says."""

import os
import time

import msgspec

from eventml import Bus, Model, Reject

bus = Bus("doubling")
bus.topic("numbers", id_field="name")


class Number(msgspec.Struct):
    name: str
    number: float
    do: str = ""
    """What the handler does: `fail`, `reject`, `none`, `nan`, `away`, or `sleep` for `number` seconds."""


class Doubled(msgspec.Struct):
    name: str
    twice: float


class NoZoneError(Reject):
    """Why the doubling app rejects an event."""


class StaleError(Exception):
    """A failure that has the name of one of eventml's."""


def model() -> Model:
    time.sleep(float(os.environ.get("BOOT", "0")))
    return Model(object="model", name="doubler", version="1")


def doubled(number: Number) -> Doubled | None:
    match number.do:
        case "fail":
            raise ValueError(f"a secret of the handler's: {number}")
        case "reject":
            raise Reject("no such ride")
        case "no zone":
            raise NoZoneError("no such zone") from KeyError("a secret cause")
        case "false":
            raise StaleError("a secret class of the handler's")
        case "away":
            raise ConnectionError("a secret host")
        case "sleep":
            time.sleep(number.number)
        case "die":
            os._exit(66)
        case "none":
            return None
        case "nan":
            return Doubled(number.name, float("nan"))
    return Doubled(number.name, max(min(2 * number.number, 1e300), -1e300))


@bus.predictor("numbers", to="doubles", model=model)
def double(numbers: list[Number], model: str) -> list[Doubled | None]:
    """Doubles numbers."""
    assert model == "model"
    return [doubled(number) for number in numbers]


@bus.predictor("numbers", to="doubles")
def double_one(number: Number) -> Doubled | None:
    return doubled(number)


@bus.predictor("numbers", to="roots")
async def root(numbers: list[Number]) -> list[float]:
    return [abs(number.number) ** 0.5 for number in numbers]


@bus.consumer("doubles")
async def look(doubled: Doubled) -> None:
    """A consumer, which is not served."""
