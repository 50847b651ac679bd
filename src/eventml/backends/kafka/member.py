"""One membership in a consumer group: an aiokafka consumer from its joining to its leaving.

    join ──► assigned ──► poll ⇄ receive / complete ──► revoked ──► assigned ──► … ──► leave

A rebalance takes all partitions away and gives some: intake stops, what is in hand is finished or, at
the deadline, dropped, and what was finished is committed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError
from anyio.lowlevel import checkpoint_if_cancelled

from eventml.backends.kafka.assignment import Assignment
from eventml.backends.kafka.clients import stop
from eventml.backends.kafka.commits import Commits
from eventml.backends.kafka.faults import FOREIGN, describe, ours, translating
from eventml.backends.kafka.fetching import Fetching, ends_of_tried
from eventml.backends.kafka.progress import Place, write
from eventml.errors import EventMLError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from aiokafka import TopicPartition

    from eventml.backends.base import Completion, Start
    from eventml.backends.kafka.clients import Clients
    from eventml.backends.kafka.completing import Completing
    from eventml.backends.kafka.observer import Observer
    from eventml.backends.kafka.remembering import Remembering
    from eventml.backends.kafka.settings import Settings
    from eventml.records import Delivery

log = logging.getLogger("eventml")

_DELIVERY: Final = attrgetter("delivery")
_LAST_COMMIT = 5.0  # seconds for it


class Member:
    """A member of a group.

    Args:
        clients: Makes its consumer.
        topics: What to read.
        group: Its group.
        start: Where the group begins in a partition of which it has committed nothing.
        observer: Asks for offsets.
        completing: Publishes outputs and acks.
        remembering: Knows which ids were finished, where the group remembers them.
        settings: The backend's.
    """

    def __init__(
        self,
        clients: Clients,
        topics: Sequence[str],
        *,
        group: str,
        start: Start,
        observer: Observer,
        completing: Completing,
        remembering: Remembering | None,
        settings: Settings,
    ) -> None:
        self._clients = clients
        self._consumer = clients.consumer(group)
        self._topics = topics
        self._group = group
        self._start = start
        self._observer = observer
        self._completing = completing
        self._remembering = remembering
        self._settings = settings
        self.assignment = Assignment()
        self._commits: Commits | None = None
        self._polling: asyncio.Task[None] | None = None
        self._news = asyncio.Event()  # for `receive`: deliveries, or a failure
        self._failure: EventMLError | None = None
        self._left = False
        self._fetching = Fetching(
            self._consumer,
            self.assignment,
            commit=self._commit_now,
            fetched=self._fetched,
            passed_over=self._wake_commits,
            longest_wait=settings.max_poll_interval / 3,
        )
        self.last_progress = time.monotonic()
        """When it last received something, was given partitions, or had nothing to do."""

    async def join(self, within: float) -> None:
        """Join the group, and wait for the first assignment.

        Raises:
            UnavailableError: it took too long, or the brokers are out of reach.
            BackendError: the brokers refused.
        """
        self._consumer.subscribe(list(self._topics), listener=_Listener(self))
        with translating(f"joining group {self._group}", within):
            async with asyncio.timeout(within):
                await self._clients.start(self._consumer)
                while not self.assignment.active:
                    self._news.clear()
                    self._raise_failure()
                    await self._news.wait()
        self._polling = asyncio.create_task(self._poll())  # nobody may cancel a fetch

    async def receive(self, limit: int) -> list[Delivery]:
        """As `Subscription.receive`.

        Raises:
            EventMLError: this member is of no use any more; make another.
        """
        while True:
            self._raise_failure()
            taken = self.assignment.take(limit)
            self._fetching.wake(limit)
            if taken:
                return taken
            self._news.clear()
            await self._news.wait()
            await checkpoint_if_cancelled()  # woken and cancelled at once: take nothing

    async def complete(self, done: Sequence[Completion]) -> None:
        """As `Subscription.complete`. What is not in hand (any more) is passed over."""
        held = self.assignment.held(map(_DELIVERY, done))
        if not held:
            return
        cautious = self.assignment.cautious
        try:
            await self._completing.complete(self.assignment, done, held)
        finally:
            self._wake_commits()
        if cautious and self._commits is not None:
            # If the next one kills us, these must not be taken for it.
            await self._commits.now(_LAST_COMMIT)

    async def completed_before(self, deliveries: Sequence[Delivery]) -> Collection[int]:
        """As `DedupeSubscription.finished`."""
        return () if self._remembering is None else await self._remembering.completed_before(deliveries)

    async def leave(self) -> None:
        """Commit what was finished, give the rest back, and leave the group. Never raises."""
        self._left = True
        self.assignment.suspend()
        self.assignment.hurry()
        self.assignment.leave()
        commits, self._commits = self._commits, None
        await self._commit_last(commits)
        await stop(self._consumer)
        self.assignment.end()
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
        await self._completing.close()

    def fail(self, error: EventMLError) -> None:
        """Make `receive` raise this, and any later one."""
        self._failure = self._failure or error
        self._news.set()

    # What the coordinator calls: it waits for each, and heartbeats go on during the first.

    async def revoked(self) -> None:
        """Finish what is in hand by the deadline, commit, and forget the rest."""
        self.assignment.suspend()
        commits, self._commits = self._commits, None
        # A commit that is refused says that the group has gone on without us: there is no hurry then
        # to finish what others are at already.
        member = commits is None or await commits.now(_LAST_COMMIT)
        drain = 0.0 if self._left else self._settings.drain
        if member and not await self.assignment.until_idle(drain) and not self._left:
            log.warning(
                "group %s: %d records are still in hand after %g s (backend.drain) of a rebalance; those of "
                "the partitions that go to others will be delivered again",
                self._group,
                self.assignment.in_flight,
                self._settings.drain,
            )
        self.assignment.give_back()
        await self._commit_last(commits)

    async def _commit_last(self, commits: Commits | None) -> None:
        if commits is None:
            await self._mark()
        else:
            await commits.now(_LAST_COMMIT)
            await commits.close(_LAST_COMMIT)

    async def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """Find out where to go on, and do."""
        try:
            # There are no heartbeats during this.
            async with asyncio.timeout(self._settings.session_timeout / 2):
                await self._completing.begin(partitions)
                places = await self._places(partitions)
            ends = await ends_of_tried(self._observer, places, self._settings.session_timeout / 4)
        except CommitFailedError:
            return  # the next rebalance is there already
        except EventMLError as exc:
            self.fail(exc)
            return
        except FOREIGN as exc:
            self.fail(ours(exc, f"beginning with the partitions of group {self._group}"))
            return
        kept = self.assignment.resume(places, ends)
        if self._remembering is not None:
            self._remembering.resume(partitions, kept)
        self._fetching.reset()
        if self._completing.commits:
            await self._mark(self._settings.session_timeout / 4)
        else:
            self._commits = Commits(self._commit_finished, self.assignment, self._settings.commit_interval)
            self._commits.wake()  # that we are at work, and what was finished in the midst of the rebalance
        self.last_progress = time.monotonic()
        self._news.set()
        self._fetching.wake()

    async def _places(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Place]:
        """Where to go on. A beginning is committed at once: it holds from now on, whatever happens."""
        places = await self._observer.committed(self._group, partitions)
        missing = [partition for partition in partitions if partition not in places]
        if missing:
            offsets = await self._observer.offsets(missing, self._start)
            beginning = {partition: Place(offset) for partition, offset in offsets.items()}
            await self._commit(beginning)
            places |= beginning
        return places

    async def _commit(self, places: Mapping[TopicPartition, Place]) -> None:
        await self._consumer.commit({p: (place.offset, write(place)[0]) for p, place in places.items()})

    async def _commit_finished(self, places: Mapping[TopicPartition, Place]) -> None:
        await self._completing.before_commit()
        await self._commit(places)

    async def _mark(self, within: float = _LAST_COMMIT) -> bool:
        """Commit what there is, where nobody else is committing. False if the brokers did not take it."""
        partitions = self.assignment.partitions
        try:
            async with asyncio.timeout(within), self._completing.at_rest(partitions) as resting:
                places = {p: place for p, place in self.assignment.to_commit().items() if p in resting}
                if places:
                    await self._commit(places)
                    self.assignment.committed(places)
        except FOREIGN as exc:
            log.debug("group %s: could not mark its place: %s", self._group, describe(exc))
            return False
        return True

    async def _commit_now(self) -> bool:
        return await (self._mark() if self._commits is None else self._commits.now(_LAST_COMMIT))

    async def _poll(self) -> None:
        try:
            await self._fetching.run()
        except EventMLError as exc:
            self.fail(exc)
        except FOREIGN as exc:
            if not self._left:
                self.fail(ours(exc, f"receiving for group {self._group}"))
        except Exception as exc:
            self.fail(UnavailableError(f"the client of group {self._group} is broken: {exc!r}"))
            raise

    def _wake_commits(self) -> None:
        if self._commits is not None:
            self._commits.wake()

    def _fetched(self) -> None:
        self.last_progress = time.monotonic()
        self._news.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka has no types, and asks for a subclass
    """Hands the coordinator's calls on."""

    def __init__(self, member: Member) -> None:
        self._member = member

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - always all of them
        await self._member.revoked()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        await self._member.assigned(assigned)
