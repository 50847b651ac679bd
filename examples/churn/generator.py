"""Generates customers; the same seed and month give the same customers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE: Final = 3_000
"""Customers a month."""

_PLANS: Final = ("monthly", "one year", "two years")
_PLAN_LOGIT: Final = np.array([0.0, -1.4, -2.3])
_PAYMENTS: Final = ("card", "transfer", "invoice")
_PAYMENT_LOGIT: Final = np.array([0.0, -0.3, 0.6])
_RISE: Final = 1.25

Columns = dict[str, list[Any]]


def customers(month: str, *, size: int = SIZE, seed: int = 0, price_rise: bool = False) -> Columns:
    """Generate the customers of a month in columns, with whether they had left by its end.

    Args:
        month: The month, such as `2024-06`.
        size: Number of customers.
        seed: Chooses them, with the month.
        price_rise: All charges have just gone up by a quarter; people call, and watch less.
    """
    year, number = map(int, month.split("-"))
    random = np.random.default_rng([seed, year, number])
    plan = random.choice(3, size, p=[0.55, 0.25, 0.2])
    payment = random.choice(3, size, p=[0.45, 0.35, 0.2])
    tenure = random.exponential(26.0, size).astype(int)
    charge = random.normal(38.0, 9.0, size).clip(12.0, 90.0)
    calls = random.poisson(0.7, size)
    usage = random.gamma(4.0, 11.0, size)
    if price_rise:
        charge *= _RISE
        calls += random.poisson(1.3, size)
        usage *= 0.8
    logit = _PLAN_LOGIT[plan] + _PAYMENT_LOGIT[payment] - 2.1
    logit += -0.03 * tenure + 0.05 * (charge - 38.0) + 0.75 * calls - 0.018 * (usage - 44.0)
    churned = random.random(size) < 1 / (1 + np.exp(-logit))
    return {
        "customer_id": [f"C{number:05}" for number in range(size)],
        "tenure_months": tenure.tolist(),
        "plan": _names(_PLANS, plan),
        "payment": _names(_PAYMENTS, payment),
        "monthly_charge": charge.round(2).tolist(),
        "support_calls": calls.tolist(),
        "usage_hours": _some_unknown(random, usage.round(1)),
        "churned": churned.tolist(),
    }


def _names(names: tuple[str, ...], chosen: NDArray[np.int64]) -> list[str]:
    return [names[place] for place in chosen.tolist()]


def _some_unknown(random: np.random.Generator, column: NDArray[np.float64]) -> list[float | None]:
    unknown = random.random(len(column)) < 0.03
    return [None if gone else value for value, gone in zip(column.tolist(), unknown.tolist(), strict=True)]
