"""Which member of a group works on which partition: a pure decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

M = TypeVar("M")


def assign(partitions: int, members: Sequence[M], current: Mapping[int, M]) -> dict[int, M]:
    """Share out partitions 0..n-1 evenly, moving as few as can be.

    Every partition has one owner (none where there are no members), the members' shares differ by
    one at most, and a partition moves only if its owner has gone or holds more than its share.
    """
    if not members:
        return {}
    held: dict[M, list[int]] = {member: [] for member in members}
    for partition in range(partitions):
        owner = current.get(partition)
        if owner is not None and owner in held:
            held[owner].append(partition)
    share, extra = divmod(partitions, len(members))
    # Those who hold most keep the larger shares: that is what moves least.
    ranked = sorted(members, key=lambda member: -len(held[member]))
    quota = {member: share + (rank < extra) for rank, member in enumerate(ranked)}
    kept = {p: member for member in members for p in held[member][: quota[member]]}
    free = [p for p in range(partitions) if p not in kept]
    for member in members:
        missing = quota[member] - min(len(held[member]), quota[member])
        kept.update((free.pop(0), member) for _ in range(missing))
    return kept
