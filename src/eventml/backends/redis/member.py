"""A member of a consumer group: the subscription that the runtime uses, and its upkeep in the background."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import socket
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import compress
from os import getpid
from typing import Any, Final

import anyio

from eventml.backends.base import Completion, Start
from eventml.backends.redis.completion import complete
from eventml.backends.redis.connection import pack
from eventml.backends.redis.errors import ConnectionLostError, NoGroupError
from eventml.backends.redis.leases import CONSUMER_PREFIX, Consumer, group_lag
from eventml.backends.redis.publishing import Publisher
from eventml.backends.redis.reader import BLOCK, ReadAhead, receive
from eventml.backends.redis.server import Client, Server
from eventml.errors import EventMLError, PublishError, UnavailableError
from eventml.records import Delivery

log = logging.getLogger("eventml.redis")

_FIRST_LIMIT: Final = 1_000  # deliveries to claim before the first call of `receive` sets a limit


class GroupReader(ReadAhead):
    """Reads the topics of one slot for one member, by its consumer of each topic, and keeps its leases.

    `arrived` is set when there may be deliveries to take, or an error to raise.
    """

    def __init__(
        self, server: Server, slot: int, consumers: Mapping[str, Consumer], arrived: asyncio.Event
    ) -> None:
        [*topics], [consumer, *_] = consumers, consumers.values()
        head = ("XREADGROUP", "GROUP", consumer.group, consumer.name, "BLOCK", BLOCK, "COUNT")
        tail = ("STREAMS", *topics, *[">"] * len(topics))
        super().__init__(
            server,
            slot,
            lambda limit: pack(*head, limit, *tail),
            lambda topic, entries: consumers[topic].take(entries),
            arrived,
        )
        self._settings = server.settings
        self._by_topic = consumers
        self._consumers = consumers.values()
        self._client = consumer.client
        self._claimed: list[Delivery] = []
        self._limit = _FIRST_LIMIT
        self._catching_up = True  # entries that the group left unfinished are received before new ones
        self._reply_lost = False  # entries may be pending for this consumer that it never received
        self._group_gone = False
        self._upkeep_failure: Exception | None = None
        self._stopping = False
        self._upkeep_due = asyncio.Event()
        self._swept = time.monotonic()

    # Receiving.

    def check(self) -> None:
        """Raise what has failed since the last call, once."""
        if self._upkeep_failure is not None:
            failure, self._upkeep_failure = self._upkeep_failure, None
            raise failure
        try:
            super().check()
        except ConnectionLostError:
            self._reply_lost = True
            self._upkeep_due.set()
            raise
        except NoGroupError:
            self._group_gone = True
            self._upkeep_due.set()

    def take(self, limit: int) -> list[Delivery]:
        """Take the deliveries that are ready, up to a limit: first those that were claimed."""
        if not self._claimed:
            return super().take(limit)
        taken, self._claimed = self._claimed[:limit], self._claimed[limit:]
        self._upkeep_due.set()
        return taken

    async def read(self, limit: int) -> None:
        """Start a read, unless the upkeep has something to do before."""
        self._limit = limit
        if self._may_read:
            await super().read(limit)
        else:
            self._upkeep_due.set()

    def read_ahead(self, limit: int) -> None:
        """As `read`, if the client is connected."""
        if self._may_read:
            super().read_ahead(limit)

    @property
    def _may_read(self) -> bool:
        return not (self._catching_up or self._reply_lost or self._group_gone or self._stopping)

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
                    self._upkeep_failure = exc
                    self._arrived.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._upkeep_due.wait()
            self._upkeep_due.clear()

    async def _keep_up_once(self) -> None:
        if self._group_gone:
            for consumer in self._consumers:
                await consumer.recreate_group()
            self._group_gone = False
            self._arrived.set()
        for consumer in self._consumers:
            await consumer.renew()
        if any(consumer.lost_leases for consumer in self._consumers):
            self._claimed, self.ready = self._leased(self._claimed), self._leased(self.ready)
        if not self._reply_lost:
            await self._sweep()
        elif self.pending is None:  # else entries whose reply is under way would be taken for lost
            for consumer in self._consumers:
                await consumer.release()
            self._reply_lost, self._catching_up = False, True
            await self._sweep()
        if self._settings.retention is not None:
            for consumer in self._consumers:
                await consumer.trim_finished(self._settings.retention)

    def _leased(self, deliveries: list[Delivery]) -> list[Delivery]:
        return [d for d in deliveries if self._by_topic[d.record.topic].has_lease(d.offset)]

    async def _sweep(self) -> None:
        """Claim what was given back, and every half lease what has expired; then delete idle consumers."""
        half = self._settings.lease / 2
        # Entries whose reply takes longer than a lease to arrive are this member's own.
        due = time.monotonic() - self._swept > half and not self.arrives_slowly(half)
        if due:
            self._swept = time.monotonic()
        for consumer in self._consumers:
            await consumer.count_lost()
            if due or await consumer.anything_released():
                consumer.sweeping = True
            while consumer.sweeping and not self._claimed:
                try:
                    self._claimed += await consumer.sweep(self._limit, self.size.max_bytes)
                except BaseException:
                    self._reply_lost = True  # the server may have executed the claim
                    self.size.failed(self._limit)
                    raise
        if self._claimed:
            self._arrived.set()
        elif self._catching_up:
            self._catching_up = False
            self._arrived.set()
        if due:
            for consumer in self._consumers:
                await consumer.delete_idle_consumers()

    # Leaving.

    async def stop(self) -> None:
        """Stop claiming and reading, and wait for the read that is under way."""
        self._stopping = True
        self._upkeep_due.set()
        await self.finish(self._client)

    async def leave(self) -> None:
        """Give all deliveries back, and close the connections. Call `stop` first."""
        untouched = self._claimed + self.ready
        try:
            for consumer in self._consumers:
                with suppress(NoGroupError):  # then nothing is pending any more
                    await consumer.leave(untouched)
        except EventMLError as exc:
            log.warning("deliveries of %s come again only when their leases have expired: %s", consumer, exc)
        self.client.close()
        self._client.close()


class Member:
    """A member of a group, with two connections to each server that has some of its topics.

    With a `name` it takes over what is pending for a member that had this name in a process that has died.
    The group records the last `window` ids at each topic; with 0 it does not deduplicate.
    """

    def __init__(
        self, publisher: Publisher, topics: Sequence[str], group: str, *, name: str | None, window: int = 0
    ) -> None:
        self._arrived = asyncio.Event()
        self._publisher = publisher
        server = publisher.server
        lease = server.settings.lease
        self._failing = False  # the last call of `receive` has raised
        # In this time a connection, a login and a read have failed, if they fail.
        self._readable_after = 3 * server.settings.timeout + BLOCK / 1_000
        own = name or f"{socket.gethostname()}:{getpid()}:{secrets.token_hex(4)}"  # as no other has or had
        self._takes_over = name is not None
        consumer = f"{CONSUMER_PREFIX}{own}"
        self._consumers: dict[str, Consumer] = {}
        self._readers: list[GroupReader] = []
        for slot, some in server.by_slot(topics).items():
            client = Client(server, slot)
            consumers = {
                topic: Consumer(client, topic, group, consumer, lease=lease, window=window) for topic in some
            }
            self._consumers |= consumers
            self._readers.append(GroupReader(server, slot, consumers, self._arrived))

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See `Subscription.receive`."""
        deliveries: Sequence[Delivery] = ()
        try:
            with anyio.move_on_after(self._readable_after if self._failing else math.inf):
                deliveries = await receive(self._readers, limit, self._arrived, until_read=self._failing)
        except Exception:
            self._failing = True
            raise
        self._failing = False
        return deliveries

    async def complete(self, done: Sequence[Completion]) -> None:
        """See `Subscription.complete`."""
        refused: dict[int, str] = {}
        for topic, positions in self._by_topic((one.delivery for one in done), len(done)).items():
            some = done if len(positions) == len(done) else [done[position] for position in positions]
            consumer = self._consumers[topic]
            try:
                found = await complete(self._publisher, consumer, some)
            except NoGroupError:
                await consumer.recreate_group()
                found = await complete(self._publisher, consumer, some)
            refused |= {positions[number]: reason for number, reason in found.items()}
        if refused:
            position, reason = min(refused.items())
            raise PublishError(
                f"{len(refused)} of {len(done)} completions were refused, the first for the output of "
                f"{done[position].delivery.record.id!r:.100}: {reason}",
                refused,
            )

    async def begin(self, deliveries: Sequence[Delivery]) -> None:
        """See `CountsAttempts.begin`."""
        by_topic = self._by_topic(deliveries, len(deliveries))
        for topic, consumer in self._consumers.items():
            await consumer.begin([deliveries[position] for position in by_topic.get(topic, ())])

    def lost_deliveries(self, deliveries: Iterable[Delivery]) -> Collection[int]:
        """See `LosesDeliveries.lost_deliveries`."""
        consumers = self._consumers
        if not any(consumer.lost_leases for consumer in consumers.values()):
            return ()
        leased = (consumers[d.record.topic].has_lease(d.offset) for d in deliveries)
        return [position for position, is_leased in enumerate(leased) if not is_leased]

    async def completed_before(self, deliveries: Sequence[Delivery]) -> Collection[int]:
        """See `DedupeSubscription.completed_before`."""
        found: list[int] = []
        for topic, positions in self._by_topic(deliveries, len(deliveries)).items():
            ids = [deliveries[position].record.id for position in positions]
            found += compress(positions, await self._consumers[topic].completed_before(ids))
        return found

    @property
    def lost(self) -> int:
        """See `CountsLost.lost`."""
        return sum(consumer.lost for consumer in self._consumers.values())

    async def lag(self) -> int | None:
        """See `Subscription.lag`."""
        total = 0
        for consumer in self._consumers.values():
            found = await group_lag(consumer.client, consumer.topic, consumer.group)
            if found is None:
                return None
            total += found
        return total

    def _by_topic(self, deliveries: Iterable[Delivery], count: int) -> dict[str, Sequence[int]]:
        """The positions of the deliveries of each topic."""
        if len(self._consumers) == 1 and count:
            return {next(iter(self._consumers)): range(count)}
        found: dict[str, list[int]] = {}
        for position, delivery in enumerate(deliveries):
            found.setdefault(delivery.record.topic, []).append(position)
        return dict(found)

    @asynccontextmanager
    async def joined(self, start: Start) -> AsyncIterator[Member]:
        """Join the group; at the end, give back what was not completed, and close the connections."""
        upkeep: list[asyncio.Task[Any]] = []
        try:
            for consumer in self._consumers.values():
                if not await consumer.create_group(start) and self._takes_over:
                    await consumer.take_over()
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
