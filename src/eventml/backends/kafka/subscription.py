"""A subscription as a member of a group, which is replaced when it fails."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count

import anyio
from aiokafka import TopicPartition

from eventml.backends.base import Completion
from eventml.backends.kafka.admin import AdminClient
from eventml.backends.kafka.assignment import Assignment
from eventml.backends.kafka.errors import repeatable
from eventml.backends.kafka.member import Member
from eventml.backends.kafka.partitions import CommittedOffset, PartitionState
from eventml.backends.kafka.settings import Settings
from eventml.errors import EventMLError, UnavailableError
from eventml.records import Delivery

log = logging.getLogger("eventml")

_JOIN_BACKOFF = 0.5  # seconds
_LEAVING = 1.0  # seconds that the next member waits for one that leaves, to have its number
_READABLE_AFTER = 2.0  # seconds: a member whose first fetches are refused has failed by then


async def group_lag(
    admin: AdminClient, group: str, topics: Collection[str], assignments: Sequence[Assignment]
) -> dict[TopicPartition, int] | None:
    """How many offsets before the end of the log a group has not completed, by partition.

    Zero is exact. Transactions leave markers in a log, and aborted ones their records: those count until the
    group's members have passed them. What a member of another process has completed and not committed yet
    counts as not completed; `assignments`, of its members in this process, know more than that. None if the
    group has committed nothing, or if a rebalance is under way.

    Raises:
        TopicNotFoundError: a topic is missing.
        UnavailableError: no answer.
    """
    counts = await admin.require_topics(topics)  # a topic may have new partitions
    partitions = [TopicPartition(topic, p) for topic, count in counts.items() for p in range(count)]
    ends = await admin.offsets(partitions, "latest")
    committed = await admin.committed(group, partitions, stable=False)
    assigned = _states(assignments)
    if not committed and not assigned:
        return None
    starts = await admin.offsets([p for p in partitions if p not in committed], "earliest")
    committed |= {partition: CommittedOffset(offset) for partition, offset in starts.items()}
    if assigned != _states(assignments):
        return None
    return {p: (assigned.get(p) or PartitionState(committed[p])).unfinished(end) for p, end in ends.items()}


def _states(assignments: Iterable[Assignment]) -> dict[TopicPartition, PartitionState]:
    return {partition: state for one in assignments for partition, state in one.states.items()}


class GroupSubscription:
    """A member of a consumer group; as `eventml.backends.base.Subscription`.

    `new_member` creates a member that has not joined. No two that have not left have one number, and it is 1
    if possible: if this process dies, the first member of the next one takes the place of number 1.
    """

    def __init__(
        self,
        new_member: Callable[[int], Member],
        *,
        topics: Collection[str],
        group: str,
        admin: AdminClient,
        settings: Settings,
    ) -> None:
        self._new_member = new_member
        self._topics = topics
        self.group = group
        self._admin = admin
        self._settings = settings
        self._join_timeout = settings.rebalance_timeout + settings.session_timeout
        self._member: Member | None = None
        self._failed: Member | None = None
        self._joining: asyncio.Task[Member] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._numbers: dict[Member, int] = {}  # of members that have not left
        self._watching: asyncio.Task[None] | None = None
        self._receiving = False
        self._lost = 0  # of former members
        self._failing = False  # the last call of `receive` has raised
        self._replaced = False  # there was another member before

    async def start(self) -> None:
        """Join the group. A rebalance that is slow fails a member, and is joined again by another.

        Raises:
            UnavailableError: this has failed for as long as one rebalance may take.
            BackendError: the brokers refused.
        """
        deadline = time.monotonic() + self._join_timeout
        while self._member is None:
            try:
                self._member = await self._join()
            except UnavailableError as exc:
                if time.monotonic() > deadline:
                    raise
                log.warning("joining again: %s", exc)
                await asyncio.sleep(_JOIN_BACKOFF)
        self._watching = asyncio.create_task(self._replace_stalled())

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As `Subscription.receive`. After any error the next call joins the group again."""
        self._receiving, deliveries = True, list[Delivery]()
        try:
            member = await self._joined()
            with anyio.move_on_after(_READABLE_AFTER if self._failing else math.inf):
                deliveries = await member.receive(limit)
            self._failing = False
        except EventMLError as exc:
            self._failing = True
            self._drop_member()
            raise repeatable(exc) from exc
        finally:
            self._receiving = False
        return deliveries

    async def complete(self, done: Sequence[Completion]) -> None:
        """As `Subscription.complete`. Deliveries of a former assignment are ignored."""
        if self._member is not None:
            await self._member.complete(done)

    async def begin(self, deliveries: Sequence[Delivery]) -> None:
        """As `CountsAttempts.begin`."""
        if self._member is not None:
            await self._member.begin(deliveries)

    def lost_deliveries(self, deliveries: Iterable[Delivery]) -> Collection[int]:
        """As `LosesDeliveries.lost_deliveries`. Those of a member that has failed are lost."""
        if self._member is None or self._member.failed:
            return range(sum(1 for _ in deliveries))
        assignment = self._member.assignment
        return assignment.positions_lost(deliveries) if self._replaced or assignment.forgot else ()

    async def lag(self) -> int | None:
        """As `Subscription.lag`. Other members' work counts as completed when it is committed."""
        try:
            lag = await group_lag(self._admin, self.group, self._topics, self.assignments)
        except EventMLError as exc:
            log.debug("lag of group %s: %s", self.group, exc)
            return None
        return None if lag is None else sum(lag.values())

    @property
    def lost(self) -> int:
        """As `CountsLost.lost`: a number of offsets, markers of transactions among them."""
        return self._lost + sum(assignment.lost for assignment in self.assignments)

    @property
    def assignments(self) -> list[Assignment]:
        """The member's assignment; empty while there is no member."""
        return [] if self._member is None else [self._member.assignment]

    async def close(self) -> None:
        """Give back what was not completed, and leave the group. Never raises."""
        if self._watching is not None:
            self._watching.cancel()
        self._drop_member()
        if self._joining is not None:
            self._joining.cancel()
            await asyncio.wait([self._joining])
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _joined(self) -> Member:
        """The member; if there is none, a new one. It goes on joining if this is cancelled."""
        while self._member is None:
            if self._joining is None:
                self._joining = asyncio.create_task(self._join())
            await asyncio.wait([self._joining])
            joining, self._joining = self._joining, None
            self._member = joining.result()
        return self._member

    async def _join(self) -> Member:
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=_LEAVING)
        number = next(n for n in count(1) if n not in self._numbers.values())
        member = self._new_member(number)
        self._numbers[member] = number
        member.former = self._failed
        try:
            await member.join(self._join_timeout)
        except BaseException:
            self._leave(member)
            raise
        self._failed = None
        return member

    def _drop_member(self) -> None:
        member, self._member = self._member, None
        if member is not None:
            self._failed, self._replaced = member, True
            self._lost += member.assignment.lost
            self._leave(member)

    def _leave(self, member: Member) -> None:
        async def leave() -> None:
            await member.leave()
            self._numbers.pop(member, None)

        task = asyncio.create_task(leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _replace_stalled(self) -> None:
        """Fail a member that receives nothing although records wait, twice in a row: they may be new."""
        suspected = 0.0
        while True:
            await asyncio.sleep(self._settings.stall_timeout / 4)
            member = self._member
            if member is None or not self._receiving:
                continue
            since = member.last_progress
            if time.monotonic() - since < self._settings.stall_timeout:
                continue
            reason = await self._stall_reason(member.assignment)
            if reason is None:
                member.last_progress = time.monotonic()
            elif suspected == since:
                quiet = time.monotonic() - since
                text = f"group {self.group}: nothing received for {quiet:.0f} s, but {reason}; reconnecting"
                log.warning("%s", text)
                member.fail(UnavailableError(text))
            suspected = since

    async def _stall_reason(self, assignment: Assignment) -> str | None:
        """Why records should have been received, or None if there are none to receive."""
        if not assignment.active:
            return "a rebalance does not end"
        try:
            ends = await self._admin.offsets(tuple(assignment.states), "latest")
        except EventMLError as exc:
            return str(exc)
        states = assignment.states
        waiting = sum(max(end - states[p].position, 0) for p, end in ends.items() if p in states)
        return f"{waiting} records wait" if waiting else None
