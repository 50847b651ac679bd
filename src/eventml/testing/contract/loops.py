"""Members that receive and complete in loops, as workers do, until they are stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import anyio

from eventml.backends.base import Dedupe
from eventml.errors import UnavailableError
from eventml.records import Delivery, Record
from eventml.testing.contract.case import expect, ids
from eventml.testing.contract.trial import Member, Trial

T = TypeVar("T")

_LIMIT = 4  # deliveries of a batch
_PAUSE = 0.01  # seconds between receiving a batch and completing it
_AGAIN = 0.05  # seconds between two tries during a rebalance
_LOOK = 0.002  # seconds between two checks of a condition


class MemberLoops:
    """Members of a group that receive and complete in loops, and a log of what they did.

    Args:
        trial: The trial that the members belong to.
        to: Topic for an output per input; None for no outputs.
        dedupe: The `dedupe` of the completions.

    Attributes:
        received: Each delivery and the member that received it, in order.
        finished: The ids of completed deliveries.
        clashes: Keys of which one member received a record while another had one in flight.
    """

    def __init__(self, trial: Trial, *, to: str | None = None, dedupe: Dedupe = "off") -> None:
        self.received: list[tuple[Member, Delivery]] = []
        self.finished: set[str] = set()
        self.clashes: set[bytes | None] = set()
        self._trial = trial
        self._to = to
        self._dedupe: Dedupe = dedupe
        self._owners: dict[bytes | None, Member] = {}
        self._running: dict[Member, anyio.Event] = {}
        self._receiving: dict[Member, anyio.CancelScope] = {}

    @property
    def deliveries(self) -> list[Delivery]:
        """All deliveries received, in order."""
        return [delivery for _, delivery in self.received]

    def start(self, *members: Member) -> None:
        """Start the loops of these members."""
        for member in members:
            self._running[member] = anyio.Event()
            self._trial.tasks.start_soon(self._loop, member, self._running[member])

    async def stop(self, *members: Member) -> None:
        """Stop the loops of these members once their batches are completed."""
        for member in members:
            stopped = self._running.pop(member)
            if member in self._receiving:
                self._receiving[member].cancel()
            await self._trial.within("a completion did not return", stopped.wait())

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until the condition holds; fail if it does not in time."""
        with anyio.move_on_after(self._trial.harness.patience):
            while not done():  # noqa: ASYNC110 - several conditions share the loops
                await anyio.sleep(_LOOK)
        expect(done(), f"only {len(self.received)} deliveries came, {len(self.finished)} were completed")

    async def until_finished(self, records: Iterable[Record]) -> None:
        """Wait until all of these records are completed."""
        wanted = {record.id for record in records}
        await self.until(lambda: wanted <= self.finished)

    async def _loop(self, member: Member, stopped: anyio.Event) -> None:
        while member in self._running:
            deliveries: Sequence[Delivery] = ()
            with anyio.CancelScope() as self._receiving[member]:
                deliveries = await _repeat(partial(member.receive, _LIMIT))
            keys = {delivery.record.key for delivery in deliveries}
            self.received += [(member, delivery) for delivery in deliveries]
            self.clashes |= {key for key in keys if self._owners.setdefault(key, member) is not member}
            await anyio.sleep(_PAUSE)
            await _repeat(partial(member.finish, deliveries, self._to, dedupe=self._dedupe))
            for key in keys:
                self._owners.pop(key, None)
            self.finished.update(ids(deliveries))
        stopped.set()


async def _repeat(call: Callable[[], Awaitable[T]]) -> T:
    """The result of the call, repeated while the broker is unavailable: during a rebalance, say."""
    while True:
        try:
            return await call()
        except UnavailableError:
            await anyio.sleep(_AGAIN)
