"""The targets of the two models, and their error measure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from examples.rides.trips import Floats, Mask, Trips


@dataclasses.dataclass(frozen=True)
class Target:
    """The target of a model.

    Attributes:
        name: Name of the model, which is saved as `<name>.skops`.
        unit: Unit of the prediction.
        least: Lower bound of predictions: a linear model has none.
        truth: Returns the true value of each trip.
        usable: Returns which trips have a true value to train on and to score against.
    """

    name: str
    unit: str
    least: float
    truth: Callable[[Trips], Floats]
    usable: Callable[[Trips], Mask]


DURATION: Final = Target("duration", "minutes", 1.0, lambda trips: trips.minutes, lambda trips: trips.is_ride)
TIP: Final = Target("tip", "dollars", 0.0, lambda trips: trips.tip_amount, lambda trips: trips.is_tipped)
TARGETS: Final = (DURATION, TIP)


def rmse(predicted: Floats | float, truth: Floats) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(np.mean((predicted - truth) ** 2)))
