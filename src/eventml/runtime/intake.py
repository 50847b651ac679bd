"""The buffer before the call of a handler, where batches form, and the bytes that the handler has in flight.

A batch, what waits behind it, what is being completed, and what waits for a retry are each bounded by
`max_batch` events. For events of up to `max_bytes / max_batch` bytes that bounds the bytes, too. So only
larger events are counted one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Generic, TypeVar

import anyio

from eventml.backends.base import MAX_BYTES
from eventml.records import Delivery, count_bytes

T = TypeVar("T")

_HEADER: Final = 150  # bytes of memory that a header needs besides its characters


class BytesInFlight:
    """The bytes of the large events that one handler has received and not completed.

    Args:
        max_bytes: The most bytes that one read returns, as the backend promises.
        max_batch: The most events of one call.
    """

    def __init__(self, max_bytes: int, max_batch: int) -> None:
        self._max_bytes = max_bytes
        self._small = max_bytes // max_batch
        self._sizes: dict[tuple[str, int, int | str], int] = {}

    @property
    def full(self) -> bool:
        """Whether as many bytes are in flight as two reads return: one is processed, and one waits."""
        return bool(self._sizes) and sum(self._sizes.values()) >= 2 * self._max_bytes

    def add(self, deliveries: Sequence[Delivery], all_headers: Sequence[Mapping[str, str]]) -> None:
        """Count received deliveries; their headers are as in a `DecodedBatch`."""
        small = self._small
        sizes = [
            (d, size)
            for d in deliveries
            if (size := len((r := d.record).value) + len(r.key or b"") + len(r.id)) > small
        ]
        if sum(map(_length, all_headers)) > small * len(deliveries):
            n = Counter(id(d.record.headers) for d in deliveries)
            sizes = [(d, count_bytes([d]) + _length(h := d.record.headers) // n[id(h)]) for d in deliveries]
        self._sizes |= {_position(d): size for d, size in sizes if size > small}

    def remove(self, deliveries: Iterable[Delivery]) -> bool:
        """These are completed. Returns whether there were large ones in flight."""
        if not self._sizes:
            return False
        for delivery in deliveries:
            self._sizes.pop(_position(delivery), None)
        return True


def _position(delivery: Delivery) -> tuple[str, int, int | str]:
    return delivery.record.topic, delivery.partition, delivery.offset


def _length(headers: Mapping[str, str]) -> int:
    return sum(map(len, headers)) + sum(map(len, headers.values())) + _HEADER * len(headers)


class Intake(Generic[T]):
    """The buffer between the receiving and the processing stage, where natural batching happens.

    The handler takes all that waits when it is free. There is no timer, so an idle stream adds no latency;
    under load batches grow by themselves, up to the cap. The buffer holds two batches at most: this bounds
    memory and slows the receive down to the handler's pace.

    Args:
        max_batch: The most items that `take` returns.
        max_bytes: The most bytes of one read.

    Attributes:
        in_flight: Bytes of the large events in this buffer and in the stages behind it.
    """

    def __init__(self, max_batch: int, max_bytes: int = MAX_BYTES) -> None:
        self.in_flight = BytesInFlight(max_bytes, max_batch)
        self._max_batch = max_batch
        self._items: list[T] = []
        self._to_screen = 0  # how many items there are up to the last one that was put with `screen`
        self._closed = False
        self._changed: anyio.Event | None = None  # exists only while a task waits for it

    @property
    def drained(self) -> bool:
        """Whether the intake is closed and empty."""
        return self._closed and not self._items

    def put(self, items: Sequence[T], *, screen: bool = False) -> None:
        """Add items at the end; with `screen`, a batch that contains any of them has to be screened."""
        self._items += items
        if screen:
            self._to_screen = len(self._items)
        self._notify()

    def close(self) -> None:
        """No more items will come: `take` returns those that are left, then empty batches."""
        self._closed = True
        self._notify()

    async def room(self) -> None:
        """Wait until one batch waits at most, and the bytes in flight are below their limit."""
        while len(self._items) > self._max_batch or self.in_flight.full:
            await self._wait_for_change()

    def completed(self, deliveries: Iterable[Delivery]) -> None:
        """Deliveries are not in flight any more: there may be room."""
        if self.in_flight.remove(deliveries):
            self._notify()

    async def take(self) -> tuple[list[T], bool]:
        """Wait for an item, and take all that wait, up to the cap, in order. No items once drained.

        It also returns whether the batch has to be screened. If it is cancelled, it has taken nothing.
        """
        while not self._items and not self._closed:
            await self._wait_for_change()
        batch, screen = self._items[: self._max_batch], self._to_screen > 0
        del self._items[: self._max_batch]
        self._to_screen = max(self._to_screen - len(batch), 0)
        self._notify()
        return batch, screen

    async def _wait_for_change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()
