"""How often offsets were handed out and never finished, as it is handed on from one member to the next.

A partition is handed out in its order, so what lies further back was handed out no oftener: falling
steps say it all. A member that leaves says how far it came. One that dies cannot: it has marked the
partition as being worked on, and the first of what follows its place are presumed to have been handed
out once. Those come again with caution, after a commit that counts them, so that their further deaths
are counted, not presumed.
"""

from __future__ import annotations

from typing import Final

Tried = tuple[tuple[int, int], ...]
"""Steps: up to this offset, handed out so often. Offsets rise, times fall; beyond the last they are 0."""

_MOST: Final = 32  # steps: those furthest back are forgotten


def times(tried: Tried, offset: int) -> int:
    """How often an offset was handed out."""
    return next((count for end, count in tried if offset < end), 0)


def from_offset(tried: Tried, offset: int) -> Tried:
    """Without what lies before an offset."""
    return tuple(step for step in tried if step[0] > offset)


def before(tried: Tried, offset: int) -> Tried:
    """Without what lies from an offset on."""
    steps: list[tuple[int, int]] = []
    for end, count in tried:
        steps.append((min(end, offset), count))
        if end >= offset:
            break
    return tuple(steps)


def once_more(tried: Tried, offset: int) -> Tried:
    """With everything before an offset handed out once more."""
    return _normal((*((end, count + 1) for end, count in before(tried, offset)), (offset, 1), *tried))


def presumed(tried: Tried, offset: int) -> Tried:
    """With everything before an offset handed out once at least."""
    return _normal((*tried, (offset, 1)))


def _normal(steps: Tried) -> Tried:
    """One step for each count, the last; none that reaches no further than one before it."""
    kept: list[tuple[int, int]] = []
    for end, count in steps:
        if kept and end <= kept[-1][0]:
            continue
        if kept and count == kept[-1][1]:
            kept.pop()
        kept.append((end, count))
    return tuple(kept[:_MOST])
