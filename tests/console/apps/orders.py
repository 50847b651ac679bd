"""An app with a predictor of single orders and a consumer of what it predicts."""

import os
from pathlib import Path

import msgspec

from eventml import Bus, Model

NAME = os.environ["APP"]
VERSION = os.environ.get("VERSION", "v1")
BROKEN = Path(os.environ.get("BROKEN", "/nonexistent"))
"""While this file exists, orders with a note fail."""

bus = Bus(NAME)


class Order(msgspec.Struct):
    id: str
    amount: float
    note: str = ""


class Risk(msgspec.Struct):
    id: str
    risk: float


bus.topic(f"{NAME}.orders", event_type=Order, id_field="id")


def model() -> Model:
    return Model(0.01, "risk", VERSION)


@bus.predictor(
    f"{NAME}.orders",
    to=f"{NAME}.risks",
    model=model,
    retries=0,
    breaker_window=0,
    golden=os.environ.get("GOLDEN") or None,
    golden_tolerance=1e9,
)
def risk(order: Order, model: float) -> Risk:
    if order.note and BROKEN.exists():
        raise ValueError(order.note)
    return Risk(order.id, order.amount * model)


if "TRIED" in os.environ:
    bus.challenger("risk", "next", model=lambda: Model(0.02, "risk", f"{VERSION}-next"))
    bus.canary("risk", model=lambda: Model(0.03, "risk", f"{VERSION}-canary"), share=0.5)


@bus.consumer(f"{NAME}.risks")
async def alarm(risk: Risk) -> None:
    pass
