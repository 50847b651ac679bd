"""Members that receive and complete in a loop, as a worker does, until they are stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from eventml.backends.base import Completion
from eventml.errors import UnavailableError
from eventml.testing.contract import expect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventml.backends.base import Dedupe
    from eventml.records import Delivery
    from eventml.testing.contract.trial import Member, Trial

_AGAIN = 0.05  # seconds between two tries during a rebalance


class _Loop:
    """One member's loop, which can be stopped between two batches."""

    def __init__(self) -> None:
        self.receiving = anyio.CancelScope()
        self.stopping = False
        self.stopped = anyio.Event()

    def stop(self) -> None:
        self.stopping = True
        self.receiving.cancel()


class Work:
    """Members that work for a group, and a log of what they did.

    Args:
        trial: The trial that the members belong to.
        to: Topic for an output per input; None for no outputs.
        limit: Limit of each receive.
        pause: Seconds between receiving a batch and completing it.
        dedupe: The `dedupe` of the completions.

    Attributes:
        received: Each delivery and the member that received it, in order.
        finished: The ids of completed deliveries.
        clashes: Keys of which one member received a record while another had one in flight.
    """

    def __init__(
        self,
        trial: Trial,
        *,
        to: str | None = None,
        limit: int = 10,
        pause: float = 0.0,
        dedupe: Dedupe = "off",
    ) -> None:
        self.received: list[tuple[Member, Delivery]] = []
        self.finished: set[str] = set()
        self.clashes: set[bytes | None] = set()
        self._trial = trial
        self._to = to
        self._limit = limit
        self._pause = pause
        self._dedupe: Dedupe = dedupe
        self._holders: dict[bytes | None, Member] = {}
        self._loops: dict[Member, _Loop] = {}
        self._progress = anyio.Event()

    @property
    def deliveries(self) -> list[Delivery]:
        """All deliveries received, in order."""
        return [delivery for _, delivery in self.received]

    def count(self, member: Member) -> int:
        """The number of deliveries that a member has received."""
        return sum(1 for who, _ in self.received if who is member)

    def start(self, *members: Member) -> None:
        """Start the loops of these members."""
        for member in members:
            self._loops[member] = _Loop()
            self._trial.tasks.start_soon(self._work, member, self._loops[member])

    async def stop(self, *members: Member) -> None:
        """Stop the loops of these members once their batches are completed."""
        for member in members:
            loop = self._loops.pop(member)
            loop.stop()
            await self._trial.bounded(lambda: "a completion did not return", loop.stopped.wait())

    async def until(self, done: Callable[[], bool], what: Callable[[], str]) -> None:
        """Wait until the condition holds; it is tested after each completed batch."""

        async def look() -> None:
            while not done():
                await self._progress.wait()

        await self._trial.bounded(what, look())

    async def until_finished(self, wanted: set[str]) -> None:
        """Wait until all of these ids are completed."""
        await self.until(
            lambda: wanted <= self.finished,
            lambda: f"{len(wanted & self.finished)} of {len(wanted)} records were completed",
        )

    async def _work(self, member: Member, loop: _Loop) -> None:
        while not loop.stopping:
            deliveries: Sequence[Delivery] = ()
            with anyio.CancelScope() as loop.receiving:
                deliveries = await self._receive(member)
            self._note(member, deliveries)
            await anyio.sleep(self._pause)
            await self._complete(member, deliveries)
            for key in {delivery.record.key for delivery in deliveries}:
                self._holders.pop(key, None)
            self.finished.update(expect.ids(deliveries))
            progress, self._progress = self._progress, anyio.Event()
            progress.set()
        loop.stopped.set()

    def _note(self, member: Member, deliveries: Sequence[Delivery]) -> None:
        self.received += [(member, delivery) for delivery in deliveries]
        for key in {delivery.record.key for delivery in deliveries}:
            if self._holders.setdefault(key, member) is not member:
                self.clashes.add(key)

    async def _receive(self, member: Member) -> Sequence[Delivery]:
        while True:
            try:
                return await member.receive(self._limit)
            except UnavailableError:
                await anyio.sleep(_AGAIN)

    async def _complete(self, member: Member, deliveries: Sequence[Delivery]) -> None:
        done = [
            Completion(d, (self._trial.output(self._to, d),) if self._to else (), self._dedupe)
            for d in deliveries
        ]
        while done:
            try:
                await member.complete(done)
            except UnavailableError:
                await anyio.sleep(_AGAIN)
            else:
                return
