"""A subscription: a member of a group, and another when that one is of no use any more."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from eventml.backends.kafka.lag import group_lag
from eventml.errors import EventMLError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from eventml.backends.base import Completion
    from eventml.backends.kafka.assignment import Assignment
    from eventml.backends.kafka.counting import Counting
    from eventml.backends.kafka.member import Member
    from eventml.backends.kafka.observer import Observer
    from eventml.backends.kafka.settings import Settings
    from eventml.records import Delivery

log = logging.getLogger("eventml")


class Subscription:
    """One member of a consumer group at work; as `eventml.backends.base.Subscription`.

    Args:
        new_member: Makes a member that has not joined.
        topics: What it reads.
        group: Its group.
        observer: Asks for offsets.
        counting: Counts records.
        settings: The backend's.
    """

    def __init__(
        self,
        new_member: Callable[[], Member],
        *,
        topics: Mapping[str, int],
        group: str,
        observer: Observer,
        counting: Counting,
        settings: Settings,
    ) -> None:
        self._new_member = new_member
        self._topics = topics
        self._group = group
        self._observer = observer
        self._counting = counting
        self._settings = settings
        self._member: Member | None = None
        self._joining: asyncio.Task[Member] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._receiving = False

    async def start(self) -> None:
        """Join.

        Raises:
            UnavailableError: the brokers are out of reach.
        """
        self._member = await self._join()
        self._watching = asyncio.create_task(self._watch())

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Wait for deliveries; after a failure, join anew."""
        self._receiving = True
        try:
            member = await self._ready()
            return await member.receive(limit)
        except EventMLError:
            self._replace()
            raise
        finally:
            self._receiving = False

    async def complete(self, done: Sequence[Completion]) -> None:
        """Publish outputs and finish inputs; those of a former assignment are passed over."""
        if self._member is not None:
            await self._member.complete(done)

    async def completed_before(self, deliveries: Sequence[Delivery]) -> Collection[int]:
        """The positions of those whose ids were finished in their partition, where the group remembers."""
        if self._member is None:
            raise UnavailableError(f"group {self._group}: there is no member; try again")
        return await self._member.completed_before(deliveries)

    async def lag(self) -> int | None:
        """The group's unfinished records over all partitions, other members' as far as they committed."""
        try:
            lag = await group_lag(
                self._observer, self._counting, self._group, self._topics, [self.assignment]
            )
        except EventMLError as exc:
            log.debug("lag of group %s: %s", self._group, exc)
            return None
        return None if lag is None else sum(lag.values())

    @property
    def assignment(self) -> Assignment | None:
        """What it has now, and how far it is."""
        return None if self._member is None else self._member.assignment

    async def close(self) -> None:
        """Give back what was not completed, and leave. Never raises."""
        if self._watching is not None:
            self._watching.cancel()
        self._replace()
        if self._joining is not None:
            self._joining.cancel()
            await asyncio.wait([self._joining])
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _ready(self) -> Member:
        """The member; where there is none, another that joins. That goes on if we are cancelled."""
        while self._member is None:
            if self._joining is None:
                self._joining = asyncio.create_task(self._join())
            await asyncio.wait([self._joining])
            joining, self._joining = self._joining, None
            self._member = joining.result()
        return self._member

    async def _join(self) -> Member:
        member = self._new_member()
        settings = self._settings
        try:
            await member.join(settings.rebalance_timeout + settings.session_timeout)
        except BaseException:
            self._leave(member)
            raise
        return member

    def _replace(self) -> None:
        member, self._member = self._member, None
        if member is not None:
            self._leave(member)

    def _leave(self, member: Member) -> None:
        task = asyncio.create_task(member.leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _watch(self) -> None:
        """See to it that a client that brings nothing although there is something is replaced."""
        suspected = 0.0
        while True:
            await asyncio.sleep(self._settings.stall_timeout / 4)
            member = self._member
            if member is None or not self._receiving:
                continue
            since = member.last_progress
            if time.monotonic() - since < self._settings.stall_timeout:
                continue
            reason = await self._stalled(member)
            if reason is None:
                member.last_progress = time.monotonic()
            elif suspected == since:
                quiet = time.monotonic() - since
                text = f"group {self._group}: nothing received for {quiet:.0f} s, but {reason}; reconnecting"
                log.warning("%s", text)
                member.fail(UnavailableError(text))
            # What has only just arrived may be on its way: look twice.
            suspected = since

    async def _stalled(self, member: Member) -> str | None:
        """Why silence is not right, or None if it is."""
        assignment = member.assignment
        if not assignment.active:
            return "a rebalance does not end"
        try:
            ends = await self._observer.offsets(assignment.partitions, "latest")
        except EventMLError as exc:
            return str(exc)
        waiting = sum(max(end - assignment.position(p), 0) for p, end in ends.items())
        return f"{waiting} records wait" if waiting else None
