"""What the model was trained on and how well: read by every step of a month, without scikit-learn."""

from __future__ import annotations

from typing import Final

import msgspec

from eventml.errors import ModelError
from examples.churn.customers import NUMBERS
from examples.churn.folder import training_file

NAMES: Final = ["plan", "payment"]
FEATURES: Final = [*NAMES, *NUMBERS]


class Training(msgspec.Struct, frozen=True):
    """How the model was trained, and its error on customers that it was not trained on.

    Attributes:
        trained_on: Description of the customers.
        churned: The share of them that left.
        auc: The area under the ROC curve, by five-fold cross-validation.
        brier: The mean squared error of the probability, likewise.
        baseline_brier: That of always saying `churned`.
        likely: How many the model finds likely to leave, when each was not among those it learnt from.
        version: The model's: a digest of what it learnt.
    """

    trained_on: str
    customers: int
    churned: float
    auc: float
    brier: float
    baseline_brier: float
    likely: int
    version: str


def read_training() -> Training:
    """Return how the model in the folder was trained.

    Raises:
        ModelError: There is none.
    """
    try:
        return msgspec.json.decode(training_file().read_bytes(), type=Training)
    except (OSError, msgspec.DecodeError) as exc:
        raise ModelError(f"{training_file()}: no model is here; run python -m examples.churn.train") from exc
