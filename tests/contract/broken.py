"""Backends that break one promise each, and the cases of the contract that have to find out."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeVar

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from eventml.backends.base import Completion
from eventml.backends.memory.hub import _Member
from eventml.errors import PublishError
from tests.contract.sound import Broker, Connection, Inner, Member

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from eventml.backends.base import Start
    from eventml.records import Delivery, Record

C = TypeVar("C", bound=type[Connection] | type[Member])

BROKEN: dict[str, tuple[type[Connection], tuple[str, ...]]] = {}


def breaks(*cases: str) -> Callable[[C], C]:
    """What these cases have to find out. A broken member comes with a sound connection."""

    def register(broken: C) -> C:
        connection = (
            broken if issubclass(broken, Connection) else type("Sound", (Connection,), {"member": broken})
        )
        BROKEN[broken.__name__] = connection, cases
        return broken

    return register


# Publishing


@breaks("a_record_arrives_as_it_was_published")
class DropsHeaders(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish([replace(record, headers={}) for record in records])


@breaks("a_foreign_record_is_given_an_id")
class NamesForeignRecordsAnew(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish([replace(r, id=r.id or secrets.token_hex(4)) for r in records])


@breaks("a_large_record_arrives")
class CutsLargeRecords(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish([replace(record, value=record.value[:65_536]) for record in records])


@breaks("publishing_nothing_is_nothing")
class WaitsForNothing(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        if not records:
            await anyio.sleep_forever()
        await super().publish(records)


@breaks("one_call_writes_many_records")
class WritesOneChunk(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish(records[:4096])


@breaks("one_call_writes_to_several_topics")
class WritesToOneTopic(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish([replace(record, topic=records[0].topic) for record in records])


@breaks("many_tasks_publish_at_once")
class SharesABuffer(Connection):
    buffer: Sequence[Record] = ()

    async def publish(self, records: Sequence[Record]) -> None:
        self.buffer = records
        await checkpoint()
        records, self.buffer = self.buffer, ()
        await super().publish(records)


@breaks("the_records_of_a_key_keep_their_order", "a_reader_sees_everything_in_order")
class WritesBackwards(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish(records[::-1])


@breaks("the_time_is_in_seconds_since_the_epoch")
class CountsMilliseconds(Member):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        return [replace(d, timestamp=d.timestamp * 1_000) for d in await super().receive(limit)]


@breaks("a_refused_record_is_named")
class DoesNotSayWhatItRefused(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        try:
            await super().publish(records)
        except PublishError as exc:
            raise PublishError(str(exc)) from exc


# Receiving


@breaks("a_receive_keeps_to_its_limit")
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


@breaks("a_cancelled_receive_loses_nothing", "a_readers_cancelled_receive_loses_nothing")
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


@breaks("a_member_that_sits_still_leaves_work_to_others")
class FetchesEverything(Member):
    fetched: tuple[Delivery, ...] = ()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        if not self.fetched:
            self.fetched = (*await super().receive(1_000_000),)
        taken, self.fetched = self.fetched[:limit], self.fetched[limit:]
        return taken


# Groups


@breaks("every_group_gets_every_record")
class KnowsOneGroup(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics, group and "group", start)


@breaks("members_share_the_work")
class SharesNothing(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics, group and secrets.token_hex(4), start)


@breaks("members_on_connections_of_their_own_share")
class HasOneConnection(Connection):
    """Declares `shared`, but lives in one process."""

    @classmethod
    def to(cls, broker: Broker) -> Self:
        if not isinstance(broker.only, cls):
            broker.only = cls(broker)
        return broker.only


@breaks("a_new_group_begins_where_it_says", "a_latest_reader_sees_what_is_new")
class AlwaysBeginsAtTheFirst(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics, group, "earliest")


@breaks("what_is_published_after_joining_arrives", "a_group_that_finished_nothing_exists")
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
            self._inner.leave()


@breaks("a_group_goes_on_where_it_left_off")
class AGroupThatComesBackSkips(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        inner = super().join(topics, group, start)
        if isinstance(inner, _Member) and start == "latest":
            for joined in inner._groups.values():
                for partition, window in zip(joined._partitions, joined._windows, strict=True):
                    window.position = partition.end
        return inner


@breaks("a_subscription_reads_several_topics")
class ReadsTheFirstTopic(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics[:1], group, start)


@breaks("a_groups_name_is_its_own_at_every_topic")
class KnowsAGroupFromAnotherTopic(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        known = any(group in topic.groups for topic in self.broker.hub._topics.values())
        return super().join(topics, group, "latest" if known else start)


@breaks("a_missing_topic_is_refused")
class CreatesTopicsByAccident(Connection):
    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AsyncIterator[Member]:
        self.broker.topics.update(topics)
        async with super().subscribe(topics, group=group, start=start) as member:
            yield member


@breaks("what_was_published_outlives_the_connections")
class LivesAsLongAsItsConnections(Connection):
    def close(self) -> None:
        if not self.broker.connections:
            self.broker.hub._topics.clear()


# Completing


@breaks("completing_publishes_and_acks")
class DropsOutputs(Member):
    async def complete(self, done: Sequence[Completion]) -> None:
        await super().complete([replace(completion, outputs=()) for completion in done])


@breaks("a_completion_may_have_many_outputs")
class WritesOneOutput(Member):
    async def complete(self, done: Sequence[Completion]) -> None:
        await super().complete([replace(c, outputs=c.outputs[:1]) for c in done])


@breaks("acks_come_in_any_order", "a_subscriptions_lag_is_exact_or_unknown")
class AcksAllUpToTheHighest(Member):
    """Commits the highest offset that is finished, whatever lies below it."""

    def __init__(self, connection: Connection, inner: Inner) -> None:
        super().__init__(connection, inner)
        self.in_hand: dict[tuple[int, int | str], Delivery] = {}

    async def receive(self, limit: int) -> Sequence[Delivery]:
        deliveries = await super().receive(limit)
        self.in_hand |= {(d.partition, d.offset): d for d in deliveries}
        return deliveries

    async def complete(self, done: Sequence[Completion]) -> None:
        for completion in done:
            last = completion.delivery
            below = [
                d
                for d in self.in_hand.values()
                if d.partition == last.partition and int(d.offset) < int(last.offset)
            ]
            await super().complete([*map(Completion, below), completion])


@breaks("completing_twice_is_harmless", "one_input_gives_one_output", "a_late_completion_is_dropped")
class PublishesWhatIsNotItsOwn(Member):
    """An ack and a write in one step, but not fenced: the outputs go out, ours or not."""

    async def complete(self, done: Sequence[Completion]) -> None:
        await self.broker.hub.publish([record for completion in done for record in completion.outputs])
        await super().complete([replace(completion, outputs=()) for completion in done])


@breaks("nothing_is_doubled_while_members_come_and_go")
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
            windows[delivery.partition]._returned[int(delivery.offset)] = None


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
    "leaving_gives_back",
    "leaving_gives_back_to_those_who_are_there",
    "nothing_is_lost_while_members_come_and_go",
)
class ForgetsWhatIsGivenBack(Member):
    def leave(self) -> None:
        super().leave()
        for window in self.windows():
            window._returned.clear()


@breaks("leaving_in_a_hurry_gives_back")
class StaysIfItIsHurried(Connection):
    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AsyncIterator[Member]:
        member = self.member(self, self.join(topics, group, start))
        yield member
        await checkpoint()
        member.leave()


@breaks("a_dead_members_work_goes_to_others")
class WaitsForTheDead(Connection):
    def kill(self) -> None:
        self.members.clear()


@breaks("a_silent_members_work_goes_to_others")
class WaitsForTheSilent(Connection):
    async def expire(self) -> None:
        pass


@breaks("a_slow_member_keeps_what_it_has")
class RobsTheSlow(Member):
    """Claims by time alone, whoever holds it."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while True:
            with anyio.move_on_after(0.02):
                return await super().receive(limit)
            for window in self.windows():
                window._returned.update(dict.fromkeys(window._in_hand))
                window._in_hand.clear()


@breaks("attempts_are_counted_as_declared")
class DoesNotCount(Member):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        return [replace(delivery, attempt=1) for delivery in await super().receive(limit)]


@breaks("what_comes_again_comes_in_order")
class GivesBackBackwards(Member):
    def leave(self) -> None:
        super().leave()
        for window in self.windows():
            window._returned = dict(reversed(window._returned.items()))


@breaks("order_is_kept_while_members_come_and_go")
class TakesWhateverIsThere(Member):
    """Members compete for every record, and not for partitions."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while isinstance(self.inner, _Member):
            await checkpoint()
            with self.broker.hub.lock:
                for group in self.inner._groups.values():
                    for index in range(len(group._windows)):
                        if taken := group._take_from(index, self.inner, min(limit, 2)):
                            return taken
            await anyio.sleep(0.001)
        return await super().receive(limit)


# Readers and lag


@breaks("a_reader_leaves_no_trace")
class ReadsAsAGroup(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        return super().join(topics, group or "readers", start)


@breaks("lag_counts_what_the_departed_left")
class CountsItsOwnOnly(Member):
    async def lag(self) -> int | None:
        lag = await self.inner.lag()
        return lag and lag - sum(len(window._returned) for window in self.windows())


@breaks("lag_can_be_asked_for_from_outside")
class GuessesTheLag(Connection):
    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        return await super().lag(topic, group=group) or {}
