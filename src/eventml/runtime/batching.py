"""Natural batching: events wait here for the handler, which takes all of them when it is free.

There is no timer, so an idle stream adds no latency; under load batches grow by themselves, up to the cap.
The buffer holds two batches at most: this bounds memory and slows the receive down to the handler's pace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import anyio
import msgspec

from eventml.records import Delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


class Item(msgspec.Struct, frozen=True, gc=False):
    """A delivery and its decoded event.

    Attributes:
        delivery: The record as it was received.
        event: The event, or the DecodeError of a record that could not be decoded.
    """

    delivery: Delivery
    event: Any


class Batch(NamedTuple, Generic[T]):
    """A batch that was taken from an intake.

    Attributes:
        items: The items, in the order of their arrival. Empty if the intake was closed.
        screened: Whether some of them may need special treatment, so that each has to be looked at.
    """

    items: list[T]
    screened: bool = False


class Intake(Generic[T]):
    """The buffer between the receiving and the calling stage.

    Args:
        max_batch: The most items that `take` returns.
        max_wait: How long `take` waits for a batch to fill once there is an item, in seconds.
    """

    def __init__(self, max_batch: int, max_wait: float = 0.0) -> None:
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._items: list[T] = []
        self._to_screen = 0  # how many items there are up to the last one that was put with `screen`
        self._closed = False
        self._changed: anyio.Event | None = None  # exists only while a task waits for it

    def __len__(self) -> int:
        return len(self._items)

    @property
    def drained(self) -> bool:
        """Whether the intake is closed and empty."""
        return self._closed and not self._items

    def put(self, items: Sequence[T], *, screen: bool = False) -> None:
        """Add items at the end.

        Args:
            items: The items.
            screen: Whether a batch that contains any of them has to be screened, item by item.
        """
        self._items += items
        if screen:
            self._to_screen = len(self._items)
        self._notify()

    def close(self) -> None:
        """No more items will come: `take` returns those that are left, then empty batches."""
        self._closed = True
        self._notify()

    async def room(self) -> None:
        """Wait until another batch may be received ahead of the one that waits."""
        while len(self._items) > self._max_batch:
            await self._change()

    async def take(self) -> Batch[T]:
        """Wait for an item, and take all that wait, up to the cap. The batch is empty once drained.

        The call may be cancelled: it has then taken nothing.
        """
        while not self._items and not self._closed:
            await self._change()
        if self._max_wait:
            await self._fill()
        batch = Batch(self._items[: self._max_batch], self._to_screen > 0)
        del self._items[: self._max_batch]
        self._to_screen = max(self._to_screen - len(batch.items), 0)
        self._notify()
        return batch

    async def _fill(self) -> None:
        with anyio.move_on_after(self._max_wait):
            while len(self._items) < self._max_batch and not self._closed:
                await self._change()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()
