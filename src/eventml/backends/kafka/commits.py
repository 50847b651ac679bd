"""When a member commits its offsets: in the background after the work, at once, and at the end."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import CommitFailedError, IllegalStateError

from eventml.backends.kafka.assignment import Assignment
from eventml.backends.kafka.commit_metadata import encode_metadata
from eventml.backends.kafka.completion import Completer
from eventml.backends.kafka.errors import CLIENT_ERRORS, describe
from eventml.backends.kafka.partitions import CommittedOffset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiokafka import TopicPartition

log = logging.getLogger("eventml")

_TIMEOUT: Final = 5.0  # seconds
_BACKOFF: Final = 0.5  # seconds


class Committer:
    """Commits what was completed: one commit at a time, each of all that has changed since the last.

    In the background a commit follows the work, or the commit before it by at least `interval` seconds: there
    is no timer. What `completer` is committing itself is left out.
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
        except CLIENT_ERRORS as exc:
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
                log.warning("could not commit offsets: %s; again in %g s", describe(exc), _BACKOFF)
                self._completed.set()
                await asyncio.sleep(_BACKOFF)
            await asyncio.sleep(self._interval)

    async def _commit_changes(self) -> None:
        async with self._lock, self._completer.idle(self._assignment.states) as idle:
            offsets = {p: at for p, at in self._assignment.to_commit().items() if p in idle}
            if offsets:
                await self.send(offsets)
                self._assignment.record_commit(offsets)
