"""One membership in a consumer group: an aiokafka consumer from joining to leaving, and its fetches.

    join ──► assigned ──► receive, complete ──► revoked ──► assigned ──► … ──► leave

A rebalance takes all partitions away and assigns some: no more records are delivered, those in flight are
completed or, at the deadline, dropped, and what was completed is committed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from operator import attrgetter
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, NoOffsetForPartitionError, OffsetOutOfRangeError
from anyio.lowlevel import checkpoint_if_cancelled

from eventml.backends.base import Completion, Start
from eventml.backends.kafka.admin import AdminClient
from eventml.backends.kafka.assignment import Assignment, Chunk, GivenBack
from eventml.backends.kafka.commits import Committer, ends_of_redelivered, partitions_of_group
from eventml.backends.kafka.completion import Completer
from eventml.backends.kafka.connection import ClientFactory, leads_unknowingly, leave, watch_partitions
from eventml.backends.kafka.errors import CLIENT_ERRORS, translate, translated
from eventml.backends.kafka.fetching import fetch_deliveries
from eventml.backends.kafka.settings import Settings
from eventml.errors import EventMLError, UnavailableError
from eventml.records import Delivery

log = logging.getLogger("eventml")

_DELIVERY: Final = attrgetter("delivery")
_NO_PARTITION: Final = TopicPartition("", -1)  # to poll it keeps the membership, and returns nothing
_POLL: Final = 200  # milliseconds that a fetch waits for records
_PRESUMED_BATCHES: Final = 2  # of each partition: what a member that died may have called a handler with
_COMMIT_BACKOFF: Final = 0.2  # seconds


class Fetcher:
    """Fetches for one member. A fetch must not be cancelled while the consumer is used: aiokafka breaks.

    It calls `on_fetched` when there are deliveries to take, and polls every `poll_interval` seconds at least.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        assignment: Assignment,
        committer: Committer,
        *,
        group: str,
        on_fetched: Callable[[], None],
        poll_interval: float,
    ) -> None:
        self._consumer = consumer
        self._assignment = assignment
        self._committer = committer
        self._group = group
        self._on_fetched = on_fetched
        self._poll_interval = poll_interval
        self._room = asyncio.Event()
        self._limit = 0
        self._version = -1  # of the assignment that the consumer's positions fit

    def wake(self, limit: int | None = None) -> None:
        """Fetch on: there is room, from now on for up to `limit` deliveries."""
        self._limit = self._limit if limit is None else limit
        self._room.set()

    async def fetch(self) -> None:
        """Fetch once, or wait until there is room."""
        self._room.clear()
        assignment = self._assignment
        if not assignment.active or assignment.full(self._limit):
            await self._consumer.getmany(_NO_PARTITION)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval):
                    await self._room.wait()
            return
        version = assignment.version
        assignment.start(_PRESUMED_BATCHES * self._limit)
        if version != self._version:
            self.seek()
        try:
            fetched = await fetch_deliveries(self._consumer, self._limit, _POLL)
        except NoOffsetForPartitionError:
            self._version = -1  # the consumer may have moved past records of other partitions
            return  # a rebalance came between, and where the group starts is not committed yet
        except OffsetOutOfRangeError as exc:
            [partition] = exc.args[0]
            await self._skip_removed(partition, version)
            return
        if assignment.version != version:
            # A rebalance came between: the consumer's positions have moved past the records dropped here.
            self._version = -1
            return
        for partition, deliveries in fetched.items():
            assignment.put(Chunk(partition, deliveries, int(deliveries[-1].offset) + 1))
        if fetched:
            self._on_fetched()
        else:
            await self._skip_markers()

    async def _skip_markers(self) -> None:
        """Skip the markers of transactions: where nothing is left to fetch, nothing else remains."""
        version = self._assignment.version
        for partition in tuple(self._assignment.states):
            position = await self._consumer.position(partition)
            if self._assignment.version != version:
                return
            self._assignment.put(Chunk(partition, (), position))
        if self._committer.running:
            self._committer.wake()
        else:  # completions are transactions
            await self._committer.now()

    async def _skip_removed(self, partition: TopicPartition, version: int) -> None:
        [start] = (await self._consumer.beginning_offsets([partition])).values()
        [end] = (await self._consumer.end_offsets([partition])).values()
        if self._assignment.version == version:
            self._version = -1  # the consumer's position is out of range
            if not start <= self._assignment.fetched.get(partition, start) <= end:
                happened = self._assignment.skip_removed(partition, start, end)
                log.warning("group %s, topic %s, partition %d: %s", self._group, *partition, happened)

    def seek(self) -> None:
        """Make the next fetch begin after the last one that was put into the assignment."""
        self._version = self._assignment.version
        for partition, offset in self._assignment.fetched.items():
            self._consumer.seek(partition, offset)


class Member(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka has no types, and requires a subclass
    """A member of a consumer group; `start` is for topics of which the group has committed nothing.

    With a `name` it takes the partitions of a member that had this name in a process that has died.
    """

    def __init__(
        self,
        clients: ClientFactory,
        topics: Mapping[str, int],  # with the numbers of their partitions
        *,
        group: str,
        start: Start,
        admin: AdminClient,
        completer: Completer,
        settings: Settings,
        name: str | None = None,
    ) -> None:
        self._clients = clients
        self._consumer = clients.consumer(group, sum(topics.values()), name)
        self._topics = topics
        self._group = group
        self._start = start
        self._admin = admin
        self._completer = completer
        self._settings = settings
        self.assignment = Assignment(settings.max_bytes)
        self._committer = Committer(self._consumer, self.assignment, completer, settings.commit_interval)
        self._polling: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # there are deliveries, or a failure
        self._failure: EventMLError | None = None
        self._leaving = False
        self.former: Member | None = None  # the one that failed and that this one replaces
        self.given_back: GivenBack = {}
        self._fetcher = Fetcher(
            self._consumer,
            self.assignment,
            self._committer,
            group=group,
            on_fetched=self._progress,
            poll_interval=settings.max_poll_interval / 3,
        )
        self.last_progress = time.monotonic()
        """When it last received records, was assigned partitions, or had nothing to receive."""

    async def join(self, within: float) -> None:
        """Join the group, and wait for the first assignment, for so many seconds.

        Raises:
            UnavailableError: it took too long, or the brokers cannot be reached.
            BackendError: the brokers refused.
        """
        self._consumer.subscribe(list(self._topics), listener=self)
        async with translated(f"joining group {self._group}", within):
            await self._clients.start(self._consumer)
            while not self.assignment.active:
                self._changed.clear()
                self._raise_failure()
                await self._changed.wait()
        self._polling = asyncio.create_task(self._poll())  # a task of its own: a fetch must not be cancelled

    async def receive(self, limit: int) -> list[Delivery]:
        """As `Subscription.receive`.

        Raises:
            EventMLError: this member cannot be used any more; create another.
        """
        while True:
            self._raise_failure()
            taken = self.assignment.take(limit)
            self._fetcher.wake(limit)
            if taken:
                return taken
            self._changed.clear()
            await self._changed.wait()
            await checkpoint_if_cancelled()  # woken and cancelled at once: take nothing

    async def complete(self, done: Sequence[Completion]) -> None:
        """As `Subscription.complete`. What is not in flight (any more) is ignored."""
        positions = self.assignment.positions_in_flight(map(_DELIVERY, done))
        if not positions:
            return
        redelivering = self.assignment.redelivering
        try:
            await self._completer.complete(self.assignment, done, positions)
        finally:
            self._committer.wake()
        if redelivering and self._committer.running:
            # If the next record kills this process, these must not be suspected.
            await self._committer.now()

    async def begin(self, deliveries: Sequence[Delivery]) -> None:
        """As `CountsAttempts.begin`. A member that has failed counts nothing."""
        self.assignment.begin(deliveries)
        while not self.assignment.attempts_committed:
            if self.failed:  # no rebalance ends
                return
            if not await self._committer.now():
                raise UnavailableError(f"the attempts of group {self._group} could not be committed")
            if not self.assignment.attempts_committed:  # a transaction or a rebalance is under way
                await asyncio.sleep(_COMMIT_BACKOFF)

    @property
    def failed(self) -> bool:
        """Whether another member has to replace this one, which delivers again what is in flight here."""
        return self._failure is not None

    async def leave(self) -> None:
        """Commit what was completed, give back the rest, and leave the group. Never raises."""
        self._leaving = True
        if self._failure is not None:
            self.assignment.give_back()  # does not count as delivered: no worker has died
        self.assignment.leave()
        await self._committer.now()
        await self._committer.stop()
        self.given_back = self.assignment.unfinished()
        await leave(self._consumer, self._settings)
        self.assignment.end()
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
        await self._completer.close()

    def fail(self, error: EventMLError) -> None:
        """Make `receive` raise this error from now on."""
        self._failure = self._failure or error
        self._changed.set()

    # aiokafka's coordinator awaits these. Heartbeats go on during the first, and not during the second.

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - always all of them
        """Complete what is in flight by the deadline, commit, and give back the rest."""
        self.assignment.suspend()
        # A commit that is refused says that the group has gone on without this member: other members have the
        # records in flight by now, and there is no point in completing them.
        in_group = not self._committer.running or await self._committer.now()
        drain = 0.0 if self._leaving else self._settings.drain
        if in_group and not await self.assignment.until_idle(drain) and not self._leaving:
            log.warning(
                "group %s: %d records are in flight after %g s (backend.drain) of a rebalance; those of "
                "partitions that other members get are delivered again",
                self._group,
                self.assignment.in_flight,
                self._settings.drain,
            )
        self.assignment.give_back()
        await self._committer.now()
        await self._committer.stop()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Go on where the group has committed."""
        session = self._settings.session_timeout
        try:
            async with AsyncExitStack() as opened:
                async with asyncio.timeout(session / 2):
                    await opened.enter_async_context(self._completer.open(assigned))
                    committed = await self._committer.resume(self._admin, self._group, assigned, self._start)
                ends = await ends_of_redelivered(self._admin, committed, session / 4)
                if leads_unknowingly(self._consumer):
                    known = await partitions_of_group(self._admin, self._group, self._topics, session / 4)
                    watch_partitions(self._consumer, known)
                former, self.former = self.former, None
                # Events in flight when a member of this process failed are not presumed to have killed it.
                self.assignment.resume(committed, ends, former.given_back if former else None)
        except CommitFailedError:
            return  # the next rebalance has begun
        except (*CLIENT_ERRORS, EventMLError) as exc:
            self.fail(translate(exc, f"starting with the partitions of group {self._group}"))
            return
        self._fetcher.seek()
        # Both commit that this member is active. Transactions commit all that follows.
        if self._completer.transactional:
            await self._committer.now(session / 4)
        else:
            self._committer.start()
        self._progress()
        self._fetcher.wake()

    async def _poll(self) -> None:
        try:
            while True:
                await self._fetcher.fetch()
        except (*CLIENT_ERRORS, EventMLError) as exc:
            if not self._leaving:
                self.fail(translate(exc, f"receiving {', '.join(self._topics)} for group {self._group}"))
        except Exception as exc:
            self.fail(UnavailableError(f"the client of group {self._group} is broken: {exc!r}"))
            raise

    def _progress(self) -> None:
        self.last_progress = time.monotonic()
        self._changed.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
