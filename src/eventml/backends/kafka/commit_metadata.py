"""The metadata of a commit: the format in which a group's brokers keep it with the committed offset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from eventml.backends.kafka.partitions import CommittedOffset

MAX_METADATA: Final = 4_000
"""Characters of a commit's metadata: brokers take 4096 bytes by default (`offset.metadata.max.bytes`)."""

_PREFIX: Final = "eventml1:"
_ACTIVE: Final = "w"


def encode_metadata(committed: CommittedOffset) -> tuple[str, bool]:
    """The metadata of a commit: empty where the offset alone says the same.

    Also whether there was room for all of `completed`; records that are left out may be repeated.
    """
    steps, last = [], committed.offset
    for end, count in committed.attempts:
        steps.append(f"{end - last:x}-{count:x}")
        last = end
    suffix = ""
    if steps or committed.active:
        suffix = f";{','.join(steps)};{_ACTIVE if committed.active else ''}"
    room = MAX_METADATA - len(_PREFIX) - len(suffix)
    text, last = "", committed.offset
    for start, stop in committed.completed:
        pair = f"{',' if text else ''}{start - last:x}-{stop - start:x}"
        if len(text) + len(pair) > room:
            return f"{_PREFIX}{text}{suffix}", False
        text += pair
        last = stop
    return (f"{_PREFIX}{text}{suffix}" if text or suffix else ""), True


def decode_metadata(offset: int, metadata: str | None) -> CommittedOffset:
    """The commit with this offset and metadata. Metadata that eventml did not write is ignored."""
    if not metadata or not metadata.startswith(_PREFIX):
        return CommittedOffset(offset)
    ranges, _, rest = metadata.removeprefix(_PREFIX).partition(";")
    steps, _, active = rest.partition(";")
    completed, last = [], offset
    for skip, length in _pairs(ranges):
        start = last + skip
        last = start + length
        completed.append((start, last))
    attempts, last = [], offset
    for length, count in _pairs(steps):
        last += length
        attempts.append((last, count))
    return CommittedOffset(offset, tuple(completed), tuple(attempts), active == _ACTIVE)


def _pairs(text: str) -> Iterator[tuple[int, int]]:
    for pair in text.split(",") if text else ():
        first, _, second = pair.partition("-")
        yield int(first, 16), int(second, 16)
