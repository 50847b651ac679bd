"""A backend whose deliveries and completions a test intercepts."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from eventml.backends.base import LosesDeliveries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from eventml.backends.base import (
        Backend,
        Capabilities,
        Completion,
        CountsAttempts,
        Start,
        Subscription,
    )
    from eventml.records import Delivery, Record

    Complete = Callable[[Subscription, Sequence[Completion]], Awaitable[None]]


class InterceptingBackend:
    """Passes every call to another backend, and completions to a function.

    Args:
        inner: The other backend.
        complete: Called in place of each subscription's `complete`, with that subscription.
        at_least: The fewest deliveries that a `receive` returns, so that a test knows the batches.
    """

    def __init__(self, inner: Backend, complete: Complete | None = None, *, at_least: int = 1) -> None:
        self._inner = inner
        self._complete = complete
        self._at_least = at_least

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    async def publish(self, records: Sequence[Record]) -> None:
        await self._inner.publish(records)

    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AsyncIterator[Subscription]:
        async with self._inner.subscribe(topics, group=group, start=start) as subscription:
            yield _Subscription(subscription, self._complete, self._at_least)

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        return await self._inner.lag(topic, group=group)


class _Subscription:
    def __init__(self, inner: Subscription, complete: Complete | None, at_least: int) -> None:
        self._inner = inner
        self._complete = complete
        self._at_least = at_least

    async def receive(self, limit: int) -> Sequence[Delivery]:
        found: list[Delivery] = []
        while len(found) < self._at_least:
            found += await self._inner.receive(limit - len(found))
        return found

    async def complete(self, done: Sequence[Completion]) -> None:
        if self._complete is None:
            await self._inner.complete(done)
        else:
            await self._complete(self._inner, done)

    async def begin(self, deliveries: Sequence[Delivery]) -> None:
        await cast("CountsAttempts", self._inner).begin(deliveries)

    def lost_deliveries(self, deliveries: Iterable[Delivery]) -> Collection[int]:
        return self._inner.lost_deliveries(deliveries) if isinstance(self._inner, LosesDeliveries) else ()

    async def lag(self) -> int | None:
        return await self._inner.lag()
