"""Commits: one at a time, each of all that was finished since the last."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from aiokafka.errors import CommitFailedError, IllegalStateError

from eventml.backends.kafka.faults import FOREIGN, describe
from eventml.errors import EventMLError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiokafka import TopicPartition

    from eventml.backends.kafka.assignment import Assignment
    from eventml.backends.kafka.progress import Place

    Commit = Callable[[Mapping[TopicPartition, Place]], Awaitable[None]]

log = logging.getLogger("eventml")

_BACKOFF = 0.5


class Commits:
    """The commits of one assignment. There is no timer: a commit follows the work, or the last commit.

    Args:
        commit: Tells the brokers.
        assignment: What was finished.
        interval: The least time between two commits, in seconds.
    """

    def __init__(self, commit: Commit, assignment: Assignment, interval: float) -> None:
        self._commit = commit
        self._assignment = assignment
        self._interval = interval
        self._news = asyncio.Event()
        self._going_on = asyncio.Lock()
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Something was finished."""
        self._news.set()

    async def now(self, within: float) -> bool:
        """Commit what there is. False if the group has gone on without us, or nobody answered in time."""
        try:
            async with asyncio.timeout(within), self._going_on:
                await self._once()
        except (CommitFailedError, IllegalStateError):
            return False
        except (*FOREIGN, EventMLError) as exc:
            log.warning("could not commit: %s; what was finished since may be repeated", describe(exc))
            return False
        return True

    async def close(self, within: float) -> None:
        """Commit no more. A commit under way is waited for, and then given up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within), self._going_on:
                pass
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                async with self._going_on:
                    await self._once()
            except (CommitFailedError, IllegalStateError) as exc:
                # A rebalance is under way: what was finished is committed at its beginning, or repeated.
                log.debug("commit refused: %s", describe(exc))
            except (*FOREIGN, EventMLError) as exc:
                log.warning("could not commit: %s; again in %g s", describe(exc), _BACKOFF)
                self._news.set()
                await asyncio.sleep(_BACKOFF)
            await asyncio.sleep(self._interval)

    async def _once(self) -> None:
        places = self._assignment.to_commit()
        if places:
            await self._commit(places)
            self._assignment.committed(places)
