"""The names that a backend gives to the members of its process."""

from __future__ import annotations

from collections import Counter


class MemberNames:
    """The names of a process's members, of which the first of each group has the name that was given.

    Args:
        name: As for `NamesMembers.name_members`; None if no process takes the place of this one.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._members: Counter[object] = Counter()

    def next(self, group: object) -> str | None:
        """A name for another member of this group."""
        self._members[group] += 1
        number = self._members[group]
        return self._name if self._name is None or number == 1 else f"{self._name}-{number}"
