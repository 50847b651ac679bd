"""What the two models predict, and what their error is measured on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from examples.rides.trips import Floats, Mask, Trips


@dataclasses.dataclass(frozen=True)
class Target:
    """What a model predicts.

    Attributes:
        name: The model's; it is saved as `<name>.skops`.
        unit: Of the prediction.
        least: A prediction below it is raised to it: a linear model knows no bounds.
        truth: Each trip's true value.
        usable: Which trips have a truth to learn from, and to be scored against.
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
    """The root of the mean squared error."""
    return float(np.sqrt(np.mean((predicted - truth) ** 2)))
