"""A delivery on its way through the pipeline, and the results that stand in the place of an output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from eventml.records import Delivery


class Item(msgspec.Struct, frozen=True, gc=False):
    """A delivery and its decoded event."""

    delivery: Delivery
    event: Any


class Failed(msgspec.Struct, frozen=True):
    """The result of an event that failed: its error."""

    error: Exception


class Deferred(msgspec.Struct, frozen=True):
    """The result of an event that was not called, because an earlier event of its key had failed."""
