"""The latest rides with their predictions, and the queues of the browsers that watch them."""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT: Final = 50
_BEHIND: Final = 500  # changes that a slow browser may be behind before it has to begin anew

Ride = dict[str, Any]
Watcher = queue.Queue[Ride | None]


class Board:
    """Rides by id. Any thread may write to it or watch it.

    The events of a ride come from several topics, in any order: each adds its fields.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._rides: dict[str, Ride] = {}
        self._watchers: set[Watcher] = set()

    def note(self, event: Ride) -> None:
        """Add an event's fields to its ride, and send the change to the watchers.

        A full board drops its oldest ride.
        """
        with self._lock:
            ride = self._rides.get(event["ride_id"], {}) | event
            self._rides[event["ride_id"]] = ride
            if len(self._rides) > self._kept:
                del self._rides[next(iter(self._rides))]
            for watcher in list(self._watchers):
                self._tell(watcher, ride)

    @contextmanager
    def watching(self) -> Iterator[Watcher]:
        """Return a queue that gets the present rides, then every change.

        It ends with None for a watcher that is too slow, who then does best to begin anew.
        """
        watcher: Watcher = queue.Queue(self._kept + _BEHIND)
        with self._lock:
            for ride in self._rides.values():
                watcher.put_nowait(ride)
            self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            with self._lock:
                self._watchers.discard(watcher)

    def _tell(self, watcher: Watcher, ride: Ride) -> None:
        try:
            watcher.put_nowait(ride)
        except queue.Full:
            self._watchers.discard(watcher)
            watcher.get_nowait()
            watcher.put_nowait(None)
