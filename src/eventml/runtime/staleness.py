"""Events that are too old to be worth answering: a pure decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.errors import StaleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.runtime.items import Item


def split_stale(items: Sequence[Item], max_age: float, now: float) -> tuple[list[Item], list[Item]]:
    """The fresh and the stale, by the broker's timestamps. Times are in seconds since the epoch."""
    oldest = now - max_age
    fresh = [item for item in items if item.delivery.timestamp >= oldest]
    if len(fresh) == len(items):
        return fresh, []
    return fresh, [item for item in items if item.delivery.timestamp < oldest]


def too_old(item: Item, now: float) -> StaleError:
    """Why an event was passed over."""
    return StaleError(f"{now - item.delivery.timestamp:.3f} s old when its turn came")
