"""A member of a consumer group: the subscription that the runtime uses, and its upkeep in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager, suppress
from itertools import compress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio

from eventml.backends.base import Completion, Start
from eventml.backends.redis.completion import Completer
from eventml.backends.redis.connection import pack
from eventml.backends.redis.errors import ConnectionLostError, NoGroupError
from eventml.backends.redis.group import Consumer, new_consumer_name
from eventml.backends.redis.leases import Leases
from eventml.backends.redis.reader import ReadAhead, receive
from eventml.backends.redis.retention import trim_finished
from eventml.backends.redis.servers import Server
from eventml.backends.redis.wire import EntryDecoder
from eventml.errors import EventMLError, PublishError, UnavailableError
from eventml.records import Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

log = logging.getLogger("eventml.redis")

T = TypeVar("T")

_TOPIC_OF, _INPUT_TOPIC_OF = attrgetter("record.topic"), attrgetter("delivery.record.topic")

_FIRST_LIMIT: Final = 1_000  # deliveries to claim before the first call of `receive` sets a limit
_IDLE_LEASES: Final = 20  # lease periods after which an idle consumer with nothing pending is deleted


class GroupReader:
    """Reads the topics of one slot for one member, and keeps its leases.

    Args:
        server: The server that has the topics.
        slot: Their slot.
        topics: The topics.
        consumer: The group, the name of the consumer, and how many ids the group records.
        arrived: Set when there may be deliveries to take, or an error to raise.
    """

    def __init__(
        self,
        server: Server,
        slot: int,
        topics: Sequence[str],
        consumer: tuple[str, str, int],
        arrived: asyncio.Event,
    ) -> None:
        self._settings, self._counters = server.settings, server.counters
        self._arrived = arrived
        self._group, self._name, window = consumer
        self._client = server.client(slot)
        decoder, lease = EntryDecoder(), server.settings.lease
        consumers = [
            Consumer(self._client, topic, self._group, self._name, window=window) for topic in topics
        ]
        self.leases: Mapping[str, Leases] = {
            consumer.topic: Leases(consumer, decoder, server.counters, lease) for consumer in consumers
        }
        self._read = ReadAhead(
            server.client(slot),
            self._command,
            lambda topic, entries: self.leases[topic].take(entries),
            arrived=arrived,
            timeout=server.settings.block + server.settings.timeout,
        )
        self._claimed: list[Delivery] = []
        self._limit = _FIRST_LIMIT
        self._catching_up = True  # entries that the group left unfinished are received before new ones
        self._reply_lost = False  # entries may be pending for this consumer that it never received
        self._group_gone = False
        self._failure: Exception | None = None
        self._stopping = False
        self._upkeep_due = asyncio.Event()
        self._swept = self._idle_checked = time.monotonic()

    # Receiving; see `reader.Source`.

    def check(self) -> None:
        """Raise what has failed since the last call, once."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        try:
            self._read.check()
        except ConnectionLostError:
            self._reply_lost = True
            self._upkeep_due.set()
            raise
        except NoGroupError:
            self._group_gone = True
            self._upkeep_due.set()

    def take(self, limit: int) -> list[Delivery]:
        """Take the deliveries that are ready, up to a limit: first those that were claimed."""
        self._limit = limit
        if not self._claimed:
            return self._read.take(limit)
        taken = self._claimed[:limit]
        del self._claimed[:limit]
        self._upkeep_due.set()
        return taken + self._read.take(limit - len(taken)) if len(taken) < limit else taken

    async def read(self, limit: int) -> None:
        """Start a read, unless the upkeep has something to do before."""
        self._limit = limit
        if self._may_read:
            await self._read.read(limit)
        else:
            self._upkeep_due.set()

    def read_ahead(self, limit: int) -> None:
        """Start a read as `read` does, if the client is connected."""
        if self._may_read:
            self._read.read_ahead(limit)

    @property
    def _may_read(self) -> bool:
        return not (self._catching_up or self._reply_lost or self._group_gone or self._stopping)

    def _command(self, limit: int) -> bytes:
        block = max(int(self._settings.block * 1000), 1)
        return pack(
            "XREADGROUP", "GROUP", self._group, self._name, "COUNT", limit, "BLOCK", block,
            "STREAMS", *self.leases, *[">"] * len(self.leases),
        )  # fmt: skip

    # Upkeep in the background.

    async def keep_up(self) -> None:
        """Renew leases, claim expired ones and trim topics, until `stop` is called. Never cancelled."""
        interval = min(1.0, self._settings.lease / 6)
        while not self._stopping:
            try:
                await self._keep_up_once()
            except NoGroupError:
                self._group_gone = True
                continue
            except Exception as exc:  # noqa: BLE001 - raised by `check`, in `receive`
                if isinstance(exc, UnavailableError) and self._may_read:
                    log.debug("%s", exc)  # the read fails by itself
                else:
                    self._failure = exc
                    self._arrived.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._upkeep_due.wait()
            self._upkeep_due.clear()

    async def _keep_up_once(self) -> None:
        if self._group_gone:
            await self.recreate_groups()
        for leases in self.leases.values():
            if len(leases) and (lost := await leases.renew()):
                self._claimed = [delivery for delivery in self._claimed if delivery.offset not in lost]
                self._read.ready = [delivery for delivery in self._read.ready if delivery.offset not in lost]
        if self._reply_lost:
            await self._recover()
        else:
            await self._sweep()
        await self._clean_up()

    async def _recover(self) -> None:
        if self._read.pending or self._claimed:
            return  # entries whose reply is under way would be taken for lost
        complete = True
        for leases in self.leases.values():
            deliveries, all_found = await leases.recover(self._limit)
            self._claimed += deliveries
            complete &= all_found
        self._reply_lost = not complete
        self._arrived.set()

    async def _sweep(self) -> None:
        now = time.monotonic()
        due = now - self._swept > self._settings.lease / 2
        for leases in self.leases.values():
            if due or await leases.anything_released():
                self._swept = now
                leases.start_sweep()
            while leases.sweeping and not self._claimed:
                try:
                    self._claimed += await leases.sweep(self._limit)
                except BaseException:
                    self._reply_lost = True  # the server may have executed the claim
                    raise
        if self._claimed:
            self._arrived.set()
        elif self._catching_up:
            self._catching_up = False
            self._arrived.set()

    async def _clean_up(self) -> None:
        lease = self._settings.lease
        idle_due = time.monotonic() - self._idle_checked > lease
        for topic, leases in self.leases.items():
            if self._settings.retention is not None:
                await trim_finished(self._client, topic, self._settings.retention)
            if idle_due:
                await leases.consumer.delete_idle_consumers(_IDLE_LEASES * lease)
        if idle_due:
            self._idle_checked = time.monotonic()

    async def recreate_groups(self) -> None:
        """Create groups that do not exist any more, from the topic's beginning, so that nothing is missed."""
        for leases in self.leases.values():
            if await leases.consumer.create_group("earliest"):
                self._counters.groups_recreated += 1
                log.warning(
                    "%s did not exist any more (FLUSHALL, or a failover to a replica that lagged) and was "
                    "created again from the topic's beginning",
                    leases.consumer,
                )
        self._group_gone = False
        self._arrived.set()

    # Joining and leaving.

    async def join(self, start: Start) -> None:
        """Create the groups that do not exist."""
        for leases in self.leases.values():
            await leases.consumer.create_group(start)

    async def stop(self) -> None:
        """Stop claiming and reading, and wait for the read that is under way."""
        self._stopping = True
        self._upkeep_due.set()
        if self._read.blocked_client is not None:
            with suppress(EventMLError):  # the read then ends when it has blocked for long enough
                await self._client.request(pack("CLIENT", "UNBLOCK", self._read.blocked_client))
        await self._read.wait()

    async def leave(self) -> None:
        """Give all deliveries back, and close the connections. Call `stop` first."""
        untouched = self._claimed + self._read.ready
        try:
            for leases in self.leases.values():
                with suppress(NoGroupError):  # then nothing is pending any more
                    await leases.give_back(untouched)
        except EventMLError as exc:
            log.warning(
                "what group %r has in flight here is not delivered again before its lease has expired: %s",
                self._group,
                exc,
            )
        await self._read.close()
        await self._client.close()


class Member:
    """A member of a group, with two connections to each server that has some of its topics.

    Args:
        server: The server that has the topics.
        topics: The topics.
        group: The name of the group.
        completer: Completes deliveries.
        window: How many ids the group records at each topic; 0 if it does not deduplicate.
    """

    def __init__(
        self, server: Server, topics: Sequence[str], group: str, completer: Completer, *, window: int = 0
    ) -> None:
        self._arrived = asyncio.Event()
        self._completer = completer
        consumer = (group, new_consumer_name(), window)
        self._readers = [
            GroupReader(server, slot, slot_topics, consumer, self._arrived)
            for slot, slot_topics in server.by_slot(topics).items()
        ]
        self._reader_of = {topic: reader for reader in self._readers for topic in reader.leases}

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See `Subscription.receive`."""
        return await receive(self._readers, limit, self._arrived)

    async def complete(self, done: Sequence[Completion]) -> None:
        """See `Subscription.complete`."""
        refused: dict[int, str] = {}
        for topic, positions in self._by_topic(done, _INPUT_TOPIC_OF).items():
            some = done if len(positions) == len(done) else [done[position] for position in positions]
            reader = self._reader_of[topic]
            found = await self._completer.complete(reader.leases[topic], some, reader.recreate_groups)
            refused |= {positions[number]: reason for number, reason in found.items()}
        if refused:
            position, reason = min(refused.items())
            raise PublishError(
                f"{len(refused)} of {len(done)} completions were refused, the first for the output of "
                f"{done[position].delivery.record.id!r}: {reason}",
                refused,
            )

    async def completed_before(self, deliveries: Sequence[Delivery]) -> Collection[int]:
        """See `DedupeSubscription.completed_before`."""
        found: list[int] = []
        for topic, positions in self._by_topic(deliveries, _TOPIC_OF).items():
            consumer = self._reader_of[topic].leases[topic].consumer
            ids = [deliveries[position].record.id for position in positions]
            found += compress(positions, await consumer.completed_before(ids))
        return found

    async def lag(self) -> int | None:
        """See `Subscription.lag`."""
        total = 0
        for topic, reader in self._reader_of.items():
            found = await reader.leases[topic].consumer.lag()
            if found is None:
                return None
            total += found
        return total

    def _by_topic(self, items: Sequence[T], topic_of: Callable[[T], str]) -> dict[str, Sequence[int]]:
        """The positions of the items of each topic."""
        if len(self._reader_of) == 1 and items:
            return {next(iter(self._reader_of)): range(len(items))}
        found: dict[str, list[int]] = {}
        for position, item in enumerate(items):
            found.setdefault(topic_of(item), []).append(position)
        return dict(found)

    @asynccontextmanager
    async def joined(self, start: Start) -> AsyncIterator[Member]:
        """Join the group; at the end, give back what was not completed, and close the connections."""
        upkeep: list[asyncio.Task[Any]] = []
        try:
            for reader in self._readers:
                await reader.join(start)
            upkeep += [asyncio.create_task(reader.keep_up()) for reader in self._readers]
            yield self
        finally:
            with anyio.CancelScope(shield=True):
                for reader in self._readers:
                    await reader.stop()
                if upkeep:
                    await asyncio.wait(upkeep)
                for reader in self._readers:
                    await reader.leave()
