"""A customer at the beginning of a month, and the prediction for them."""

from typing import Annotated, Final

import msgspec

Natural = Annotated[int, msgspec.Meta(ge=0)]

LIKELY: Final = 0.3
"""From this probability on a customer is likely to leave."""


class Customer(msgspec.Struct, frozen=True):
    """A customer on the first of a month.

    Attributes:
        id: Id of the row: month and customer, such as `2024-06/C00017`.
        monthly_charge: Monthly charge in euros.
        support_calls: Number of calls to support in the last three months.
        usage_hours: In the last month; not known of those whose box reports none.
    """

    id: str
    month: str
    customer_id: str
    tenure_months: Natural
    plan: str
    payment: str
    monthly_charge: float
    support_calls: Natural
    usage_hours: float | None = None


class ChurnPredicted(msgspec.Struct, frozen=True):
    """How likely the customer is to leave within the month."""

    customer_id: str
    month: str
    probability: float
    likely: bool
