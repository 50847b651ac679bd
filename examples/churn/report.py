"""Examines a scored month: the facts of its report, and the limits that raise the alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from examples.churn.events import LIKELY
from examples.churn.folder import profile_file
from examples.churn.training import FEATURES, read_training
from examples.monitoring import profiles
from examples.monitoring.alarms import Share, drifted, jumped
from examples.monitoring.drift import drifts
from examples.monitoring.report import Report, Truth, worst

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from examples.churn.store import Columns, Store

_SHOWN: Final = ("customer_id", "plan", "payment", "tenure_months", "monthly_charge", "support_calls")


def examine(store: Store, month: str, before: str) -> Report:
    """Compare a scored month with the model's training data and with the outcomes of the month before.

    Raises:
        StoreError, ProfileError, ModelError: The tables, the profile or the training cannot be read.
    """
    training = read_training()
    columns = store.predicted(month, training.version)
    now = Share(int(sum(columns["likely"])), len(columns["likely"]))
    then = store.share_before(month, training.version)
    when, share = then or ("the training sample", Share(training.likely, training.customers))
    profile = profiles.load(profile_file())
    found = drifts(profile, profiles.counted(profile, {name: columns[name] for name in FEATURES}))
    customers = store.customers(month)
    jump = jumped(f"likely churners in {month}, compared with {when}", share, now)
    return Report(
        title=f"Churn in {month}",
        facts={
            "customers": f"{customers:,}",
            "scored": f"{now.total:,}",
            "set aside": f"{customers - now.total:,}",
            "likely to leave": f"{now.count:,} ({now.value:.1%})",
            f"likely in {when}": f"{share.value:.1%}",
            "model version": training.version,
        },
        predictions=np.array(columns["probability"], float),
        unit="probability of leaving",
        reference=np.array(profile.predictions),
        drifts=found,
        crossings=[*([jump] if jump else []), *drifted(found)],
        truth=_truth(store.turned_out(before, training.version), before),
    )


def _truth(columns: Columns, month: str) -> Truth | None:
    """Compare predictions with the outcomes of a month; None if there are no outcomes or no predictions."""
    if not columns["churned"]:
        return None
    predicted = np.array(columns["probability"], float)
    left = np.array(columns["churned"], float)
    found = predicted >= LIKELY
    return Truth(
        about=month,
        rows=worst(_shown(columns), predicted, left),
        facts={
            "known": f"{len(left):,}",
            "left": f"{left.mean():.1%}",
            "predicted, on average": f"{predicted.mean():.1%}",
            "left, of those likely to": f"{left[found].mean():.1%}" if found.any() else "nobody was",
            "Brier score": f"{np.mean((predicted - left) ** 2):.4f}",
            "always saying the share": f"{left.mean() * (1 - left.mean()):.4f}",
        },
        predicted=predicted,
        actual=left,
    )


def _shown(columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    return {name: columns[name] for name in _SHOWN}
