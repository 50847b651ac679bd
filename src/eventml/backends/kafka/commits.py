"""When a member commits: where its group starts, in the background after the work, at once, at the end."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from eventml.backends.base import Start
from eventml.backends.kafka.admin import AdminClient
from eventml.backends.kafka.assignment import Assignment
from eventml.backends.kafka.completion import Completer
from eventml.backends.kafka.connection import commit_any
from eventml.backends.kafka.errors import CLIENT_ERRORS, describe
from eventml.backends.kafka.partitions import CommittedOffset
from eventml.backends.kafka.wire import Partition
from eventml.errors import EventMLError

log = logging.getLogger("eventml")

_TIMEOUT: Final = 5.0  # seconds
_BACKOFF: Final = 0.5  # seconds


def partitions_to_start(
    assigned: Collection[Partition], existing: Collection[Partition], committed: Collection[Partition]
) -> tuple[set[Partition], set[Partition]]:
    """The partitions for which a member commits where to start: new ones, and those of topics new to it.

    Of such a topic the member with partition 0 commits all, in one request: the others would take a commit of
    some for a sign that the group had read the topic before, and that theirs were new.
    """
    read = {topic for topic, _ in committed}
    new = {p for p in assigned if p[0] in read and p not in committed}
    return new, {p for p in existing if p[0] not in read and (p[0], 0) in assigned}


async def ends_of_redelivered(
    admin: AdminClient, committed: Mapping[TopicPartition, CommittedOffset], within: float
) -> dict[TopicPartition, int]:
    """Ends of the logs of those partitions whose records were delivered before and not completed."""
    partitions = [partition for partition, at in committed.items() if at.attempts or at.active]
    try:
        async with asyncio.timeout(within):
            return await admin.offsets(partitions, "latest")
    except (TimeoutError, EventMLError):  # a partition without a leader must not hold up the others
        return dict.fromkeys(partitions, sys.maxsize)


async def partitions_of_group(
    admin: AdminClient, group: str, topics: Mapping[str, int], within: float
) -> dict[str, int]:
    """The numbers of partitions, by topic, that members of the group have had: all of these are committed.

    `topics` has the numbers that there are. Where it is unknown how many the group has had, it has had none.
    """
    existing = [TopicPartition(topic, p) for topic, count in topics.items() for p in range(count)]
    try:
        async with asyncio.timeout(within):
            committed = await admin.committed(group, existing, stable=False)
    except (TimeoutError, EventMLError):
        committed = {}
    return {topic: sum(partition.topic == topic for partition in committed) for topic in topics}


class Committer:
    """Commits what was completed: one commit at a time, each of all that has changed since the last.

    In the background a commit follows the work, or the commit before it by at least `interval` seconds: there
    is no timer.
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

    async def now(self, within: float = _TIMEOUT) -> bool:
        """Commit now. False if the group has gone on without this member, or if it takes too long."""
        try:
            async with asyncio.timeout(within):
                await self._commit_changes()
        except (CommitFailedError, IllegalStateError):
            return False
        except (*CLIENT_ERRORS, EventMLError) as exc:
            log.warning(
                "could not commit offsets: %s; what was completed since may be repeated", describe(exc)
            )
            return False
        return True

    async def stop(self, within: float = _TIMEOUT) -> None:
        """Commit no more in the background. A commit under way is awaited for so many seconds."""
        task, self._task = self._task, None
        if task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(within), self._lock:
                    pass
            task.cancel()
            await asyncio.wait([task])

    async def resume(
        self, admin: AdminClient, group: str, assigned: Collection[TopicPartition], start: Start
    ) -> dict[TopicPartition, CommittedOffset]:
        """The group's committed offsets. Where it starts is committed at once, and so holds from now on."""
        found = await admin.committed(group, assigned, stable=True)
        while missing := [partition for partition in assigned if partition not in found]:
            counts = await admin.require_topics({partition.topic for partition in missing})
            existing = {TopicPartition(topic, p) for topic, count in counts.items() for p in range(count)}
            known = await admin.committed(group, existing.union(assigned), stable=False)
            new, first = partitions_to_start(assigned, existing, known)
            offsets = await admin.offsets(new, "earliest") | await admin.offsets(first, start)
            if offsets:
                await commit_any(self._consumer, offsets)
            elif known.keys().isdisjoint(missing):
                await asyncio.sleep(_BACKOFF)  # the member with partition 0 is about to commit
            known |= {partition: CommittedOffset(offset) for partition, offset in offsets.items()}
            found |= {partition: known[partition] for partition in missing if partition in known}
        return found

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
                log.warning("could not commit offsets: %s; again in %g s", describe(exc), _BACKOFF)
                self._completed.set()
                await asyncio.sleep(_BACKOFF)
            await asyncio.sleep(self._interval)

    async def _commit_changes(self) -> None:
        async with self._lock:
            await self._completer.commit(self._consumer, self._assignment)
