"""Drift in a stream, measured over windows of a number of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from examples.monitoring.drift import Drift, drifts
from examples.monitoring.profiles import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from examples.monitoring.profiles import Counts, Profile


class Window:
    """Counts events until there are enough to compare with the training sample.

    It uses as much memory as the profile, for any number of events.

    Args:
        profile: Profile of the training sample.
        size: Number of events to compare at a time.

    Attributes:
        rows: Number of events that it holds.
    """

    def __init__(self, profile: Profile, size: int) -> None:
        self._profile = profile
        self._size = size
        self._counts: dict[str, Counts] = {}
        self.rows = 0

    def add(self, columns: Mapping[str, Sequence[Any]], rows: int) -> list[Drift] | None:
        """Add a batch. Returns the drifts once the window is full, and empties it; None before.

        A batch is not split, so that a window may hold more events than its size.

        Raises:
            ProfileError: A column of the profile is missing. The batch is not added.
        """
        for name, counts in counted(self._profile, columns).items():
            before = self._counts.get(name, (0,) * len(counts))
            self._counts[name] = tuple(map(sum, zip(before, counts, strict=True)))
        self.rows += rows
        if self.rows < self._size:
            return None
        found = drifts(self._profile, self._counts)
        self._counts, self.rows = {}, 0
        return found
