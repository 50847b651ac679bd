"""A member's share of the work at topics that live together: reading ahead, and keeping its leases."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from eventml.backends.redis.commands import pack
from eventml.backends.redis.reading import ReadAhead
from eventml.backends.redis.replies import LostError, NoGroupError, error_for
from eventml.errors import EventMLError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventml.backends.base import Start
    from eventml.backends.redis.leases import Leases
    from eventml.backends.redis.link import Link
    from eventml.backends.redis.losses import Losses
    from eventml.backends.redis.retention import Retention
    from eventml.backends.redis.settings import Settings
    from eventml.records import Delivery

log = logging.getLogger("eventml.redis")

_FIRST_LIMIT: Final = 1_000
"""Deliveries claimed before anybody has said how many they want."""

_BURIED_AFTER: Final = 20
"""Leases of silence after which the name of a dead member that holds nothing is removed."""


class Share:
    """Topics of one slot, at which one member works.

    Args:
        leases: By topic.
        reads: The connection that reads, which blocks in the server.
        control: The connection for all else.
        settings: Lease and time limits.
        retention: Trims topics.
        losses: Counts what is lost.
        wake: Called when there may be something to take.
    """

    def __init__(
        self,
        leases: Mapping[str, Leases],
        *,
        reads: Link,
        control: Link,
        settings: Settings,
        retention: Retention,
        losses: Losses,
        wake: Callable[[], None],
    ) -> None:
        self.leases = leases
        self.control = control
        self._settings = settings
        self._retention = retention
        self._losses = losses
        self._wake = wake
        self._read = ReadAhead(
            reads,
            self._command,
            lambda topic, entries: leases[topic].take_in(entries),
            wake=wake,
            wait=settings.block + settings.timeout,
        )
        self._claimed: list[Delivery] = []
        self._limit = _FIRST_LIMIT
        self._catching_up = True  # nothing new is read before what the group has left behind
        self._unsure = False  # the server may have given us what we have never seen
        self._groupless = False
        self._problem: Exception | None = None
        self._stopping = False
        self._nudge = asyncio.Event()
        self._swept = self._buried = time.monotonic()

    # For whoever receives.

    def check(self) -> None:
        """Raises what has gone wrong since the last look: UnavailableError if it may pass."""
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
        failure, self._read.failure = self._read.failure, None
        if failure is None:
            return
        if isinstance(failure, LostError):
            self._unsure = True
            self._nudge.set()
            raise failure
        error = error_for(failure, f"reading {', '.join(map(repr, self.leases))}")
        if not isinstance(error, NoGroupError):
            raise error
        self._groupless = True
        self._nudge.set()

    def take(self, limit: int) -> list[Delivery]:
        """What is there, up to a limit: first what was claimed."""
        self._limit = limit
        if not self._claimed:
            return self._read.take(limit)
        taken = self._claimed[:limit]
        del self._claimed[:limit]
        self._nudge.set()
        return taken + self._read.take(limit - len(taken)) if len(taken) < limit else taken

    async def read(self, limit: int) -> None:
        """Have a read on its way, unless there is something to be cleared up before.

        Raises:
            UnavailableError: the server cannot be reached.
        """
        self._limit = limit
        if self._may_read:
            await self._read.start(limit)
        else:
            self._nudge.set()

    def read_ahead(self, limit: int) -> None:
        """As `read`, if it takes no waiting."""
        if self._may_read:
            self._read.start_if_connected(limit)

    @property
    def _may_read(self) -> bool:
        return not (self._catching_up or self._unsure or self._groupless or self._stopping)

    # In the background.

    async def tend(self) -> None:
        """Renew leases, claim what others left, trim topics: until told to stop. Never cancelled."""
        tick = min(1.0, self._settings.lease / 6)
        while not self._stopping:
            try:
                await self._round()
            except NoGroupError:
                self._groupless = True
                continue
            except UnavailableError as exc:
                log.debug("%s", exc)
                if not self._may_read:
                    self._fail(exc)
            except Exception as exc:  # noqa: BLE001 - raised by `check`, for whoever receives
                self._fail(exc)
            with suppress(TimeoutError):
                async with asyncio.timeout(tick):
                    await self._nudge.wait()
            self._nudge.clear()

    async def _round(self) -> None:
        if self._groupless:
            await self.recreate_groups()
        for leases in self.leases.values():
            if len(leases.holding):
                self._forget(await leases.renew())
        if self._unsure:
            await self._recover()
        else:
            await self._sweep()
        await self._clean()

    def _forget(self, gone: set[int | str]) -> None:
        """Drop what has not been handed out yet and is somebody else's now."""
        if gone:
            self._claimed = [delivery for delivery in self._claimed if delivery.offset not in gone]
            self._read.ready = [delivery for delivery in self._read.ready if delivery.offset not in gone]

    async def _recover(self) -> None:
        if self._read.pending or self._claimed:
            return  # what is on its way would be taken for lost
        complete = True
        for leases in self.leases.values():
            deliveries, all_of_it = await leases.recover(self._limit)
            self._claimed += deliveries
            complete &= all_of_it
        self._unsure = not complete
        self._wake()

    async def _sweep(self) -> None:
        now = time.monotonic()
        due = now - self._swept > self._settings.lease / 2
        for leases in self.leases.values():
            if due or await leases.consumer.released():
                self._swept = now
                leases.sweep_again()
            while leases.sweeping and not self._claimed:
                try:
                    self._claimed += await leases.sweep(self._limit)
                except BaseException:
                    self._unsure = True  # it may have been claimed, and not have arrived
                    raise
        if self._claimed:
            self._wake()
        elif self._catching_up:
            self._catching_up = False
            self._wake()

    async def _clean(self) -> None:
        for topic, leases in self.leases.items():
            await self._retention.trim(self.control, topic)
            if time.monotonic() - self._buried > self._settings.lease:
                await leases.consumer.bury(_BURIED_AFTER * self._settings.lease)
        if time.monotonic() - self._buried > self._settings.lease:
            self._buried = time.monotonic()

    async def recreate_groups(self) -> None:
        """Make groups again that have gone, from the topic's beginning: nothing published since is missed."""
        for topic, leases in self.leases.items():
            if await leases.consumer.create_group("earliest"):
                self._losses.groups_recreated += 1
                log.warning(
                    "group %r at %r was gone (FLUSHALL, or a failover to a replica that lagged) and was made "
                    "again from the topic's beginning",
                    leases.consumer.group,
                    topic,
                )
        self._groupless = False
        self._wake()

    def _fail(self, problem: Exception) -> None:
        self._problem = problem
        self._wake()

    # Coming and going.

    async def join(self, start: Start) -> None:
        """Create the groups that are missing."""
        for leases in self.leases.values():
            await leases.consumer.create_group(start)

    async def stop(self) -> None:
        """Claim and read no more; what is on its way is waited for."""
        self._stopping = True
        self._nudge.set()
        if self._read.blocked is not None:
            with suppress(EventMLError):  # then the read ends by itself
                await self.control.ask(pack("CLIENT", "UNBLOCK", self._read.blocked))
        await self._read.stop()

    async def leave(self) -> None:
        """Give back what is ours. Nothing may be under way any more.

        Raises:
            EventMLError: it could not be given back; it will be claimed when its lease has run out.
        """
        untouched = self._claimed + self._read.ready
        for leases in self.leases.values():
            with suppress(NoGroupError):  # then it has all gone
                await leases.give_back(untouched)

    async def close(self) -> None:
        await self._read.close()
        await self.control.close()

    def _command(self, limit: int) -> bytes:
        consumer = next(iter(self.leases.values())).consumer
        block = max(int(self._settings.block * 1000), 1)
        new: list[Any] = [">"] * len(self.leases)
        return pack(
            "XREADGROUP", "GROUP", consumer.group, consumer.name, "COUNT", limit, "BLOCK", block,
            "STREAMS", *self.leases, *new,
        )  # fmt: skip
