"""Natural batching: what has arrived waits here for the handler, which takes all of it when free.

There is no timer, so an idle stream adds no latency; under load batches grow by themselves, up to
the cap. The buffer holds two batches at most, which bounds memory and holds the receive back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


class Intake(Generic[T]):
    """A buffer between one receiver and one taker.

    Args:
        max_batch: The most that `take` returns.
        max_wait: How long `take` waits for a batch to fill once it has something, in seconds.
    """

    def __init__(self, max_batch: int, max_wait: float = 0.0) -> None:
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._waiting: list[T] = []
        self._closed = False
        self._changed: anyio.Event | None = None  # there is one while somebody waits for it

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def drained(self) -> bool:
        """Whether it is closed and empty."""
        return self._closed and not self._waiting

    def put(self, items: Sequence[T]) -> None:
        self._waiting += items
        self._notify()

    def close(self) -> None:
        """Nothing more will come: `take` hands out what is left, then nothing."""
        self._closed = True
        self._notify()

    async def room(self) -> None:
        """Wait until another batch may be fetched ahead of the one that waits."""
        while len(self._waiting) > self._max_batch:
            await self._change()

    async def take(self) -> list[T]:
        """Wait for something and take all that waits, up to the cap. Empty only once drained.

        It may be cancelled: it has then taken nothing.
        """
        while not self._waiting and not self._closed:
            await self._change()
        if self._max_wait:
            await self._fill()
        taken = self._waiting[: self._max_batch]
        del self._waiting[: self._max_batch]
        self._notify()
        return taken

    async def _fill(self) -> None:
        with anyio.move_on_after(self._max_wait):
            while len(self._waiting) < self._max_batch and not self._closed:
                await self._change()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()
