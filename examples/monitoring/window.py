"""Drift in a stream: so many events at a time, remembered as counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from examples.monitoring.drift import Drift, drifts
from examples.monitoring.profiles import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from examples.monitoring.profiles import Counts, Profile


class Window:
    """Events until there are enough of them to compare with the training sample.

    Its memory is the profile's, however many events it has seen.

    Args:
        profile: The training sample's.
        size: How many events are compared at a time.

    Attributes:
        rows: How many it holds.
    """

    def __init__(self, profile: Profile, size: int) -> None:
        self._profile = profile
        self._size = size
        self._counts: dict[str, Counts] = {}
        self.rows = 0

    def add(self, columns: Mapping[str, Sequence[Any]], rows: int) -> list[Drift] | None:
        """Take in a batch. Returns what `drifts` says once the window is full, which empties it.

        A batch is never split, so a window may close with more than its size.

        Raises:
            ProfileError: A column of the profile is not there. The batch is not taken in.
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
