"""Events that are too old to be worth answering: a pure decision."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from eventml.errors import StaleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.runtime.parking import Item


def split_stale(items: Sequence[Item], max_age: float) -> tuple[list[Item], list[Item]]:
    """The fresh and the stale, by the broker's timestamps against this machine's clock."""
    oldest = time.time() - max_age
    fresh = [item for item in items if item.delivery.timestamp >= oldest]
    if len(fresh) == len(items):
        return fresh, []
    return fresh, [item for item in items if item.delivery.timestamp < oldest]


def too_old(item: Item) -> StaleError:
    """Why an event was passed over."""
    return StaleError(f"{time.time() - item.delivery.timestamp:.3f} s old when its turn came")
