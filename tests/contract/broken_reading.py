"""Backends that break a promise about receiving, or about groups and readers."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Self

import anyio
from anyio.lowlevel import checkpoint

from eventml.backends.memory.hub import _Member, _Reader
from tests.contract.breaking import breaks
from tests.contract.sound import MAX_BYTES, Broker, Connection, Inner, Member, leave

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventml.backends.base import Completion, Start
    from eventml.records import Delivery


# Receiving


@breaks("a_receive_takes_what_is_there")
class ExceedsItsLimit(Member):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        return await super().receive(max(limit, 5))


@breaks("a_receive_waits")
class ReturnsNothing(Member):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        with anyio.move_on_after(0.01):
            return await super().receive(limit)
        return []


@breaks("a_receive_takes_what_is_there")
class TakesOneByOne(Member):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        return await super().receive(min(limit, 1))


@breaks("a_cancelled_receive_loses_nothing")
class LosesWhatACancelledReceiveHeld(Member):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        deliveries = await super().receive(limit)
        await checkpoint()
        return deliveries


@breaks("completing_overlaps_receiving")
class CompletesOneAtATime(Member):
    busy = False

    async def complete(self, done: Sequence[Completion]) -> None:
        if self.busy:
            return
        self.busy = True
        await checkpoint()
        await super().complete(done)
        self.busy = False


@breaks("an_idle_member_leaves_records_to_others")
class FetchesEverything(Member):
    fetched: tuple[Delivery, ...] = ()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        if not self.fetched:
            fetched = [*await super().receive(1_000_000)]
            with anyio.move_on_after(0.05):  # one receive is bounded in bytes
                while True:
                    fetched += await super().receive(1_000_000)
            self.fetched = (*fetched,)
        taken, self.fetched = self.fetched[:limit], self.fetched[limit:]
        return taken


@breaks("a_receive_is_bounded_in_bytes")
class BoundsRecordsOnly(Member):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        deliveries = [*await super().receive(limit)]
        if isinstance(self.inner, _Member | _Reader):
            with self.broker.hub.lock:
                deliveries += self.inner._take(limit - len(deliveries))
        return deliveries


@breaks("a_receive_is_bounded_in_bytes")
class NeverReadsLargeRecords(Member):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        while True:
            deliveries = await super().receive(limit)
            if small := [d for d in deliveries if len(d.record.value) <= MAX_BYTES]:
                return small


# Groups


@breaks("every_group_gets_every_record")
class KnowsOneGroup(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics, group and "group", start)


@breaks("members_share_the_work")
class SharesNothing(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics, group and secrets.token_hex(4), start)


@breaks("members_share_the_work")
class HasOneConnection(Connection):
    """Declares `shared`, but lives in one process."""

    @classmethod
    def to(cls, broker: Broker) -> Self:
        if not isinstance(broker.only, cls):
            broker.only = cls(broker)
        return broker.only


@breaks("a_subscription_starts_as_configured")
class AlwaysBeginsAtTheFirst(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics, group, "earliest")


@breaks("a_subscription_starts_at_a_time")
class TakesATimeForAnEnd(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics, group, start if isinstance(start, str) else "latest")


@breaks("a_subscription_starts_at_a_time")
class StartsAfterTheRecordOfThatTime(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics, group, start if isinstance(start, str) else start + 0.001)


@breaks("a_reader_stops_at_an_end")
class NeverStops(Member):
    async def stop_at(self, end: Start) -> None:
        del end


@breaks("a_reader_stops_at_an_end")
class StopsAtTheLatestEnd(Member):
    async def stop_at(self, end: Start) -> None:
        await super().stop_at("latest" if isinstance(end, float) else end)


@breaks("a_reader_stops_at_an_end")
class WaitsAtItsEnd(Member):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        if not (deliveries := await super().receive(limit)):
            await anyio.sleep_forever()
        return deliveries


@breaks("a_subscription_starts_as_configured", "a_group_goes_on_where_it_left_off")
class JoinsAtItsFirstReceive(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return _Late(lambda: super(JoinsAtItsFirstReceive, self).join(topics, group, start))


class _Late:
    """A subscription that is not there before it is used."""

    def __init__(self, join: Callable[[], Inner]) -> None:
        self._join = join
        self._inner: Inner | None = None

    async def receive(self, limit: int) -> Sequence[Delivery]:
        self._inner = self._inner or self._join()
        return await self._inner.receive(limit)

    async def complete(self, done: Sequence[Completion]) -> None:
        self._inner = self._inner or self._join()
        await self._inner.complete(done)

    async def lag(self) -> int | None:
        return None

    def leave(self) -> None:
        if self._inner is not None:
            leave(self._inner)


@breaks("a_group_goes_on_where_it_left_off")
class AGroupThatComesBackSkips(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        inner = super().join(topics, group, start)
        if isinstance(inner, _Member) and start == "latest":
            for joined in inner._groups.values():
                for window in joined.windows:
                    window.position = window.partition.end
        return inner


@breaks("a_subscription_reads_several_topics")
class ReadsTheFirstTopic(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics[:1], group, start)


@breaks("a_subscription_reads_several_topics")
class KnowsAGroupFromAnotherTopic(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        known = any(group == name for _, name in self.broker.hub._groups)
        return super().join(topics, group, "latest" if known else start)


@breaks("topics_are_created_once")
class CreatesTopicsByAccident(Connection):
    def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AbstractAsyncContextManager[Member]:
        self.broker.topics.update(topics)
        return super().subscribe(topics, group=group, start=start)


@breaks("a_group_goes_on_where_it_left_off")
class LivesAsLongAsItsConnections(Connection):
    def close(self) -> None:
        if not self.broker.connections:
            self.broker.hub._topics.clear()
            self.broker.hub._groups.clear()


# Readers and lag


@breaks("a_reader_sees_everything")
class ReadsAsAGroup(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics, group or "readers", start)


@breaks("a_subscriptions_lag_is_exact_or_unknown")
class CountsItsOwnOnly(Member):
    async def lag(self) -> int | None:
        lag = await self.inner.lag()
        return lag and lag - sum(len(window.returned) for window in self.windows())


@breaks("lag_is_known_without_joining")
class GuessesTheLag(Connection):
    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        return await super().lag(topic, group=group) or {}
