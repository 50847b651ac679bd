"""What a member holds: deliveries it has been given, and when their leases were last renewed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    Offset = int | str


class Holding:
    """Entries of one topic that are pending in our name. Times are of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._since: dict[Offset, float] = {}

    def __contains__(self, entry: Offset) -> bool:
        return entry in self._since

    def __len__(self) -> int:
        return len(self._since)

    def take(self, entries: Iterable[Offset], now: float) -> None:
        """They have been delivered, or their leases renewed."""
        self._since.update(dict.fromkeys(entries, now))

    def drop(self, entries: Iterable[Offset]) -> None:
        """They are finished, given back, or somebody else's."""
        for entry in entries:
            self._since.pop(entry, None)

    def older_than(self, bound: float) -> list[Offset]:
        """Those whose leases were last renewed before then."""
        return [entry for entry, since in self._since.items() if since < bound]
