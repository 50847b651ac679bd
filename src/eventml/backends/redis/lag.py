"""How far behind a group is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventml.backends.redis.commands import pack
from eventml.backends.redis.group import fields_of
from eventml.backends.redis.replies import ErrorReply, checked
from eventml.backends.redis.scripts import WAITING

if TYPE_CHECKING:
    from eventml.backends.redis.link import Link

_COUNTED: Final = 10_000
"""Entries that are counted one by one, where the server does not keep count; beyond, it is unknown."""


async def unfinished(link: Link, topic: str, group: str) -> int | None:
    """How many entries a group has not finished; None where there is no such group, or nobody can tell.

    Raises:
        UnavailableError: the server cannot be reached.
    """
    replies = await link.ask(pack("XINFO", "GROUPS", topic) + pack("XLEN", topic), 2)
    if type(replies[0]) is ErrorReply and "no such key" in str(replies[0]):
        return None
    groups, length = checked(replies, f"looking at {topic!r}")
    info = next((found for found in map(fields_of, groups) if found["name"] == group.encode()), None)
    if info is None:
        return None
    waiting = info.get("lag")
    if waiting is None:  # Redis before 7.0, or entries have been deleted from the middle
        call = WAITING.call([topic], (info["last-delivered-id"], _COUNTED))
        [waiting] = checked(await WAITING.run(link, [call]), f"counting {topic!r}")
        if waiting < 0:
            return None
    # What was trimmed away unread still counts as lag before 7.2.6. Then all that is left is unread.
    return int(info["pending"] + min(waiting, length))
