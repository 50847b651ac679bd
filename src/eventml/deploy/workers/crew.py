"""The state of a service: its places, who is in each, and what those did who have gone."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from eventml.deploy.workers.reports import Tally, total
from eventml.deploy.workers.status import Status, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventml.deploy.workers.child import Child
    from eventml.deploy.workers.placement import Place
    from eventml.deploy.workers.restarts import Crash


class Slot:
    """One place, and its worker.

    Attributes:
        place: The work to be done there.
        child: Who does it, or did it last.
        incoming: Who is about to take over.
        crashes: Of late.
        restarts: In all.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.child: Child | None = None
        self.incoming: Child | None = None
        self.crashes: list[Crash] = []
        self.restarts = 0

    def promote(self) -> None:
        """The one who was about to take over does so."""
        self.child, self.incoming = self.incoming, None


class Crew:
    """All of a service's workers.

    Args:
        bus: The bus's name.
        places: The work to be done, worker by worker.

    Attributes:
        slots: By place.
        living: Every process that there is, those about to leave included.
        stopping: Whether all are to end.
        failure: Why the service cannot go on; empty while it can.
        rolls: How often all workers have been replaced.
    """

    def __init__(self, bus: str, places: Sequence[Place]) -> None:
        self._bus = bus
        self.slots = [Slot(place) for place in places]
        self.living: set[Child] = set()
        self.stopping = False
        self.failure = ""
        self.rolls = 0
        self._retired: dict[str, Tally] = {}
        self._lock = threading.Lock()  # no total may fall while one goes over to the retired

    def retire(self, child: Child) -> None:
        """One has gone: what it did still counts."""
        with self._lock:
            self.living.discard(child)
            for name, handler in child.report.handlers.items():
                self._retired.setdefault(name, Tally()).add(handler.tally)

    def status(self, stuck: str = "") -> Status:
        """The service as it is now. It may be called from any thread."""
        with self._lock:
            return Status(
                bus=self._bus,
                workers=list(self._workers()),
                retired={name: total([tally]) for name, tally in self._retired.items()},
                stopping=self.stopping,
                stuck=stuck or self.failure,
                rolls=self.rolls,
            )

    def _workers(self) -> Iterator[WorkerStatus]:
        now = time.monotonic()
        restarts = {slot.place.name: slot.restarts for slot in self.slots}
        living = list(self.living)
        for child in sorted(living, key=lambda one: (one.name, one.started)):
            yield WorkerStatus(
                name=child.name,
                pid=child.pid,
                state=child.report.state,
                reason=child.report.reason,
                connected=child.report.connected,
                uptime=now - child.started,
                restarts=restarts.get(child.name, 0),
                handlers=child.report.handlers,
            )
        there = {child.name for child in living}
        for slot in self.slots:
            if slot.place.name not in there:
                why = "" if slot.child is None else slot.child.describe_end()
                yield WorkerStatus(
                    name=slot.place.name, pid=0, state="restarting", reason=why, restarts=slot.restarts
                )
