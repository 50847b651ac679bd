"""Backends that break a promise about completing, or about what comes again."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from eventml.backends.base import Completion
from eventml.backends.memory.hub import _Member
from eventml.backends.memory.topic import Room
from eventml.errors import PublishError
from tests.contract.breaking import breaks
from tests.contract.sound import Connection, Inner, Member

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Sequence

    from eventml.backends.base import Start
    from eventml.records import Delivery


# Completing


@breaks("completing_publishes_and_acks")
class DropsOutputs(Member):
    async def complete(self, done: Sequence[Completion]) -> None:
        await super().complete([replace(completion, outputs=()) for completion in done])


@breaks("completing_publishes_and_acks")
class WritesOneOutput(Member):
    async def complete(self, done: Sequence[Completion]) -> None:
        await super().complete([replace(c, outputs=c.outputs[:1]) for c in done])


@breaks("acks_come_in_any_order", "a_subscriptions_lag_is_exact_or_unknown")
class AcksAllUpToTheHighest(Member):
    """Commits the highest offset that is finished, whatever lies below it."""

    def __init__(self, connection: Connection, inner: Inner) -> None:
        super().__init__(connection, inner)
        self.in_flight: dict[tuple[int, int | str], Delivery] = {}

    async def receive(self, limit: int) -> Sequence[Delivery]:
        deliveries = await super().receive(limit)
        self.in_flight |= {(d.partition, d.offset): d for d in deliveries}
        return deliveries

    async def complete(self, done: Sequence[Completion]) -> None:
        for completion in done:
            last = completion.delivery
            below = [
                d
                for d in self.in_flight.values()
                if d.partition == last.partition and int(d.offset) < int(last.offset)
            ]
            await super().complete([*map(Completion, below), completion])


@breaks(
    "completing_twice_is_harmless",
    "one_input_gives_one_output",
    "deliveries_of_a_frozen_member_go_to_others",
)
class PublishesWhatIsNotItsOwn(Member):
    """An ack and a write in one step, but not fenced: the outputs go out, ours or not."""

    async def complete(self, done: Sequence[Completion]) -> None:
        await self.broker.hub.publish([record for completion in done for record in completion.outputs])
        await super().complete([replace(completion, outputs=()) for completion in done])


@breaks("deliveries_of_a_frozen_member_go_to_others")
class KeepsWhatAnotherHas(Member):
    def lost_deliveries(self, deliveries: Iterable[Delivery]) -> Collection[int]:
        del deliveries
        return ()


@breaks("nothing_is_lost_while_members_join_and_leave")
class LeavesWithoutItsLastAcks(Member):
    """Acks in the background, and does not wait for that when it leaves."""

    last: Sequence[Completion] = ()

    async def complete(self, done: Sequence[Completion]) -> None:
        await super().complete(done)
        self.last = done

    def leave(self) -> None:
        super().leave()
        windows = self.windows()
        for delivery in (completion.delivery for completion in self.last):
            windows[delivery.partition].returned[delivery.offset] = delivery.attempt


@breaks("a_refused_output_is_named")
class AcksWhatItRefuses(Member):
    async def complete(self, done: Sequence[Completion]) -> None:
        try:
            await super().complete(done)
        except PublishError as exc:
            await super().complete([Completion(done[position].delivery) for position in exc.failed])
            raise


# Redelivery


@breaks(
    "leaving_returns_deliveries",
    "leaving_returns_deliveries_to_the_other_members",
    "nothing_is_lost_while_members_join_and_leave",
)
class ForgetsWhatIsGivenBack(Member):
    def leave(self) -> None:
        super().leave()
        for window in self.windows():
            window.returned.clear()


@breaks("leaving_by_an_exception_returns_deliveries")
class StaysIfItIsHurried(Connection):
    @asynccontextmanager
    async def joined(
        self,
        topics: Sequence[str],
        group: str | None,
        start: Start,
        window: int,
    ) -> AsyncIterator[Member]:
        member = self.member(self, self.join(topics, group, start))
        yield member
        await checkpoint()
        member.leave()


@breaks("deliveries_of_a_killed_member_go_to_others", "a_member_takes_the_place_of_a_killed_one_of_its_name")
class WaitsForTheDead(Connection):
    def kill(self) -> None:
        self.members.clear()


@breaks("deliveries_of_a_frozen_member_go_to_others")
class WaitsForTheSilent(Connection):
    async def expire(self) -> None:
        pass


@breaks("a_slow_member_keeps_its_deliveries")
class RobsTheSlow(Member):
    """Claims by time alone, whoever holds it."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while True:
            with anyio.move_on_after(0.02):
                return await super().receive(limit)
            for window in self.windows():
                window.give_back()


@breaks("attempts_are_counted_as_declared")
class DoesNotCount(Member):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        return [replace(delivery, attempt=1) for delivery in await super().receive(limit)]


@breaks("redelivery_keeps_the_order")
class GivesBackBackwards(Member):
    def leave(self) -> None:
        super().leave()
        for window in self.windows():
            window.returned = dict(reversed(window.returned.items()))


@breaks("nothing_is_lost_while_members_join_and_leave")
class TakesWhateverIsThere(Member):
    """Members compete for every record, and not for partitions."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while isinstance(self.inner, _Member):
            await checkpoint()
            with self.broker.hub.lock:
                for window in self.windows():
                    if taken := window.take(Room(min(limit, 2), math.inf)):
                        return taken
            await anyio.sleep(0.001)
        return await super().receive(limit)

    async def complete(self, done: Sequence[Completion]) -> None:
        if not isinstance(self.inner, _Member):
            await super().complete(done)
            return
        await checkpoint()
        with self.broker.hub.lock:
            for window in self.windows():
                window.owner = self.inner
            self.inner._complete(done)
