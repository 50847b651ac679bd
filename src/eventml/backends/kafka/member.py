"""One membership in a consumer group: an aiokafka consumer from joining to leaving, and its commits.

    join ──► assigned ──► receive, complete ──► revoked ──► assigned ──► … ──► leave

A rebalance takes all partitions away and assigns some: no more records are delivered, those in flight are
completed or, at the deadline, dropped, and what was completed is committed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalStateError
from anyio.lowlevel import checkpoint_if_cancelled

from eventml.backends.base import Completion, Start
from eventml.backends.kafka.admin import AdminClient
from eventml.backends.kafka.assignment import Assignment
from eventml.backends.kafka.completion import Completer
from eventml.backends.kafka.connection import ClientFactory, stop
from eventml.backends.kafka.errors import CLIENT_ERRORS, describe, translate, translated
from eventml.backends.kafka.fetching import Fetcher, ends_of_redelivered
from eventml.backends.kafka.partitions import CommittedOffset, encode_metadata
from eventml.backends.kafka.settings import Settings
from eventml.errors import EventMLError, UnavailableError
from eventml.records import Delivery

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from aiokafka import TopicPartition

log = logging.getLogger("eventml")

_DELIVERY: Final = attrgetter("delivery")
_COMMIT_TIMEOUT: Final = 5.0  # seconds
_COMMIT_BACKOFF: Final = 0.5  # seconds


class Committer:
    """Commits what was completed: one commit at a time, each of all that has changed since the last.

    In the background a commit follows the work, or the commit before it: there is no timer.

    Args:
        consumer: Sends the commits.
        assignment: What was completed.
        completer: Whether it commits itself, and of which partitions it is committing nothing now.
        interval: Least time between two commits in the background, in seconds.
    """

    def __init__(self, consumer: Any, assignment: Assignment, completer: Completer, interval: float) -> None:
        self._consumer = consumer
        self._assignment = assignment
        self._completer = completer
        self._interval = interval
        self._completed = asyncio.Event()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Commit in the background, beginning at once."""
        self._completed.set()
        self._task = asyncio.create_task(self._run())

    @property
    def running(self) -> bool:
        """Whether commits are made in the background."""
        return self._task is not None

    def wake(self) -> None:
        """Commit soon: something was completed."""
        self._completed.set()

    async def now(self, within: float = _COMMIT_TIMEOUT) -> bool:
        """Commit now. False if the group has gone on without this member, or if it takes too long."""
        try:
            async with asyncio.timeout(within):
                await self._commit_changes()
        except (CommitFailedError, IllegalStateError):
            return False
        except CLIENT_ERRORS as exc:
            log.warning(
                "could not commit offsets: %s; what was completed since may be repeated", describe(exc)
            )
            return False
        return True

    async def stop(self, within: float = _COMMIT_TIMEOUT) -> None:
        """Commit no more in the background. A commit under way is awaited for so many seconds."""
        task, self._task = self._task, None
        if task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(within), self._lock:
                    pass
            task.cancel()
            await asyncio.wait([task])

    async def send(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Commit these offsets. Raises aiokafka's errors."""
        await self._consumer.commit({p: (at.offset, encode_metadata(at)[0]) for p, at in offsets.items()})

    async def _run(self) -> None:
        while True:
            await self._completed.wait()
            self._completed.clear()
            try:
                await self._commit_changes()
            except (CommitFailedError, IllegalStateError) as exc:
                # A rebalance is under way: what was completed is committed at its beginning, or repeated.
                log.debug("commit refused: %s", describe(exc))
            except CLIENT_ERRORS as exc:
                log.warning("could not commit offsets: %s; again in %g s", describe(exc), _COMMIT_BACKOFF)
                self._completed.set()
                await asyncio.sleep(_COMMIT_BACKOFF)
            await asyncio.sleep(self._interval)

    async def _commit_changes(self) -> None:
        async with self._lock, self._completer.idle(self._assignment.states) as idle:
            offsets = {p: at for p, at in self._assignment.to_commit().items() if p in idle}
            if offsets:
                await self.send(offsets)
                self._assignment.record_commit(offsets)


class Member(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka has no types, and requires a subclass
    """A member of a consumer group; `start` is for partitions of which the group has committed nothing."""

    def __init__(
        self,
        clients: ClientFactory,
        topics: Sequence[str],
        *,
        group: str,
        start: Start,
        admin: AdminClient,
        completer: Completer,
        settings: Settings,
    ) -> None:
        self._clients = clients
        self._consumer = clients.consumer(group)
        self._topics = topics
        self._group = group
        self._start = start
        self._admin = admin
        self._completer = completer
        self._settings = settings
        self.assignment = Assignment()
        self._committer = Committer(self._consumer, self.assignment, completer, settings.commit_interval)
        self._polling: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # there are deliveries, or a failure
        self._failure: EventMLError | None = None
        self._leaving = False
        self._fetcher = Fetcher(
            self._consumer,
            self.assignment,
            commit=self._committer.now,
            on_fetched=self._progress,
            on_skipped=self._committer.wake,
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
        with translated(f"joining group {self._group}", within):
            async with asyncio.timeout(within):
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

    async def leave(self) -> None:
        """Commit what was completed, give back the rest, and leave the group. Never raises."""
        self._leaving = True
        self.assignment.suspend()
        self.assignment.stop_waiting()
        self.assignment.leave()
        await self._committer.now()
        await self._committer.stop()
        await stop(self._consumer)
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
            async with asyncio.timeout(session / 2):
                await self._completer.begin(assigned)
                committed = await self._committed(assigned)
            ends = await ends_of_redelivered(self._admin, committed, session / 4)
        except CommitFailedError:
            return  # the next rebalance has begun
        except (*CLIENT_ERRORS, EventMLError) as exc:
            self.fail(translate(exc, f"starting with the partitions of group {self._group}"))
            return
        self.assignment.resume(committed, ends)
        self._fetcher.reset()
        # Both commit that this member is active. Transactions commit all that follows.
        if self._completer.transactional:
            await self._committer.now(session / 4)
        else:
            self._committer.start()
        self._progress()
        self._fetcher.wake()

    async def _committed(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset]:
        """What the group has committed. Where it starts is committed at once, and so holds from now on."""
        committed = await self._admin.committed(self._group, partitions)
        missing = [partition for partition in partitions if partition not in committed]
        if missing:
            offsets = await self._admin.offsets(missing, self._start)
            started = {partition: CommittedOffset(offset) for partition, offset in offsets.items()}
            await self._committer.send(started)
            committed |= started
        return committed

    async def _poll(self) -> None:
        try:
            await self._fetcher.run()
        except (*CLIENT_ERRORS, EventMLError) as exc:
            if not self._leaving:
                self.fail(translate(exc, f"receiving for group {self._group}"))
        except Exception as exc:
            self.fail(UnavailableError(f"the client of group {self._group} is broken: {exc!r}"))
            raise

    def _progress(self) -> None:
        self.last_progress = time.monotonic()
        self._changed.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
