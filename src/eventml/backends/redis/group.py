"""A consumer group at one topic: creating it, its lag, the ids that it has recorded, its idle consumers."""

from __future__ import annotations

import secrets
import socket
from os import getpid
from typing import TYPE_CHECKING, Final

from eventml.backends.base import Start
from eventml.backends.redis.connection import Client, fields_of, pack
from eventml.backends.redis.errors import ErrorReply, check_replies
from eventml.backends.redis.scripts import COUNT, LEAVE

if TYPE_CHECKING:
    from collections.abc import Sequence

CONSUMER_PREFIX: Final = "eventml:"
RELEASED: Final = f"{CONSUMER_PREFIX}released"
"""The consumer that entries are pending for while they wait to be claimed after a member gave them back."""

_MAX_COUNTED: Final = 10_000
"""Entries counted one by one where the server does not keep the count; if there are more, lag is unknown."""


def new_consumer_name() -> str:
    """A name that no other consumer has or ever had."""
    return f"{CONSUMER_PREFIX}{socket.gethostname()}:{getpid()}:{secrets.token_hex(4)}"


def dedupe_key(topic: str, group: str) -> str:
    """The key of the ids that a group has recorded: named like its dead letters, so in one slot with them."""
    return f"{topic}.{group}.seen"


async def group_lag(client: Client, topic: str, group: str) -> int | None:
    """How many entries a group has not finished; None if there is no such group, or it cannot be told.

    Raises:
        BackendError: the server cannot be reached, or refuses.
    """
    replies = await client.request(pack("XINFO", "GROUPS", topic) + pack("XLEN", topic), 2)
    if type(replies[0]) is ErrorReply and "no such key" in str(replies[0]):
        return None
    groups, length = check_replies(replies, f"reading the lag of group {group!r} at {topic!r}")
    info = next((found for found in map(fields_of, groups) if found["name"] == group.encode()), None)
    if info is None:
        return None
    unread = info.get("lag")
    if unread is None:  # Redis before 7.0, or entries have been deleted from the middle
        call = COUNT.call([topic], (info["last-delivered-id"], _MAX_COUNTED))
        [unread] = check_replies(await COUNT.run(client, [call]), f"counting {topic!r}")
        if unread < 0:
            return None
    # Before Redis 7.2.6 unread entries that were trimmed still count. Then all that is left is unread.
    return int(info["pending"] + min(unread, length))


class Consumer:
    """One consumer of a group at one topic.

    Every method raises UnavailableError if the server cannot be reached, NoGroupError if the group does
    not exist any more, and BackendError if the server refuses.

    Args:
        client: Used for requests that do not block.
        topic: The topic.
        group: The name of the group.
        name: The name of the consumer.
        window: How many ids the group records at least; 0 if it does not deduplicate.
    """

    def __init__(self, client: Client, topic: str, group: str, name: str, *, window: int = 0) -> None:
        self.client = client
        self.topic = topic
        self.group = group
        self.name = name
        self.window = window
        self.dedupe_key = dedupe_key(topic, group)

    def __str__(self) -> str:
        """The group and the topic, for messages."""
        return f"group {self.group!r} at {self.topic!r}"

    async def create_group(self, start: Start) -> bool:
        """Create the group, and the topic, if they do not exist. Returns whether the group was created.

        Any number of members may do so at once.
        """
        first = "0" if start == "earliest" else "$"
        command = pack("XGROUP", "CREATE", self.topic, self.group, first, "MKSTREAM")
        [reply] = await self.client.request(command)
        if type(reply) is ErrorReply and "BUSYGROUP" in str(reply):
            return False
        check_replies([reply], f"creating {self}")
        return True

    async def lag(self) -> int | None:
        """How many entries the group has not finished; see `group_lag`."""
        return await group_lag(self.client, self.topic, self.group)

    async def completed_before(self, ids: Sequence[str]) -> list[bool]:
        """For each id, whether the group has recorded it."""
        replies = await self.client.request(pack("ZMSCORE", self.dedupe_key, *ids))
        [scores] = check_replies(replies, f"reading the recorded ids of {self}")
        return [score is not None for score in scores]

    async def delete_idle_consumers(self, idle: float) -> None:
        """Delete other members' consumers that have nothing pending and were idle for so many seconds."""
        replies = await self.client.request(pack("XINFO", "CONSUMERS", self.topic, self.group))
        [consumers] = check_replies(replies, f"listing the consumers of {self}")
        longest = int(idle * 1000)
        for fields in map(fields_of, consumers):
            name = fields["name"].decode(errors="replace")
            if (
                name.startswith(CONSUMER_PREFIX)
                and name != self.name
                and not fields["pending"]
                and fields["idle"] >= longest
            ):
                call = LEAVE.call([self.topic], (self.group, name, "", longest))
                check_replies(await LEAVE.run(self.client, [call]), f"deleting idle consumers of {self}")
