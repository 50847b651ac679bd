"""One consumer of a group at one topic: what it asks of the server."""

from __future__ import annotations

import secrets
import socket
from os import getpid
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.backends.redis.commands import pack
from eventml.backends.redis.replies import ErrorReply, checked
from eventml.backends.redis.scripts import LEAVE, RELEASE, RENEW

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from eventml.backends.base import Start
    from eventml.backends.redis.holding import Holding
    from eventml.backends.redis.link import Link
    from eventml.backends.redis.wire import Entry

PREFIX: Final = "eventml:"
RELEASED: Final = f"{PREFIX}released"
"""The consumer under whose name entries lie that were given back."""

_TOGETHER: Final = 200  # entries that a script looks at in one call


def consumer_name() -> str:
    """A name that no other member has or ever had."""
    return f"{PREFIX}{socket.gethostname()}:{getpid()}:{secrets.token_hex(4)}"


def finished_ids_key(topic: str, group: str) -> str:
    """Where the ids are that a group has finished: named like its dead letters, so in a slot with them."""
    return f"{topic}.{group}.seen"


class Claimed(msgspec.Struct, frozen=True):
    """Entries that were taken over.

    Attributes:
        entries: Ids and fields.
        attempts: How often each has been delivered, this time included.
        trimmed: How many more were pending, but have been cut from the topic since.
    """

    entries: Sequence[Entry] = ()
    attempts: Sequence[int] = ()
    trimmed: int = 0


class Consumer:
    """A consumer by name, over a connection that never blocks.

    Every method raises UnavailableError where the server cannot be asked, NoGroupError where the
    group has gone, and BackendError where the server says no.

    Args:
        link: The connection.
        topic: What is read.
        group: Whose member it is.
        name: The consumer's own.
        window: How many finished ids the group remembers.
    """

    def __init__(self, link: Link, topic: str, group: str, name: str, *, window: int = 0) -> None:
        self._link = link
        self.topic = topic
        self.group = group
        self.name = name
        self.window = window
        self.finished_ids = finished_ids_key(topic, group)
        self._doing = f"group {group!r} at {topic!r}"

    async def create_group(self, start: Start) -> bool:
        """Create the group, and the topic, where they are missing. Returns whether the group was.

        Any number of members may do so at once.
        """
        first = "0" if start == "earliest" else "$"
        [reply] = await self._link.ask(pack("XGROUP", "CREATE", self.topic, self.group, first, "MKSTREAM"))
        if type(reply) is ErrorReply and "BUSYGROUP" in str(reply):
            return False
        checked([reply], f"creating {self._doing}")
        return True

    async def finished(self, ids: Sequence[str]) -> list[bool]:
        """Of each of these ids, whether the group remembers to have finished it."""
        [scores] = checked(
            await self._link.ask(pack("ZMSCORE", self.finished_ids, *ids)),
            f"asking what {self._doing} has finished",
        )
        return [score is not None for score in scores]

    async def renew(self, entries: Sequence[int | str]) -> set[int | str]:
        """Renew leases. Returns those that are somebody else's now, or nobody's."""
        calls = [RENEW.call([self.topic], (self.group, self.name, *some)) for some in _chunks(entries)]
        replies = (
            checked(await RENEW.run(self._link, calls), f"renewing leases of {self._doing}") if calls else []
        )
        return {entry.decode() for gone in replies for entry in gone}

    async def released(self) -> bool:
        """Whether something was given back that nobody has claimed yet."""
        [reply] = checked(
            await self._link.ask(pack("XPENDING", self.topic, self.group, "-", "+", 1, RELEASED)),
            f"looking at {self._doing}",
        )
        return bool(reply)

    async def overdue(self, lease: float, cursor: str, limit: int) -> tuple[str, list[str], int]:
        """Take over entries that nobody has renewed for so many seconds, one's own included.

        Returns:
            Where to go on (`0-0` at the end), the entries, and how many more were found cut off.
        """
        [reply] = checked(
            await self._link.ask(
                pack(
                    "XAUTOCLAIM", self.topic, self.group, self.name, int(lease * 1000), cursor,
                    "COUNT", limit, "JUSTID",
                )
            ),
            f"claiming for {self._doing}",
        )  # fmt: skip
        trimmed = len(reply[2]) if len(reply) > 2 else 0  # noqa: PLR2004 - from 7.0 on they come third
        return reply[0].decode(), [entry.decode() for entry in reply[1]], trimmed

    async def unseen(self, holding: Holding, limit: int) -> list[str]:
        """Entries that are pending in our name, and that we do not know of: a reply was lost."""
        found: list[str] = []
        first = "-"
        while len(found) < limit:
            [page] = checked(
                await self._link.ask(
                    pack("XPENDING", self.topic, self.group, first, "+", _TOGETHER, self.name)
                ),
                f"looking at {self._doing}",
            )
            found += [entry for entry in (row[0].decode() for row in page) if entry not in holding]
            if len(page) < _TOGETHER:
                break
            first = f"({page[-1][0].decode()}"
        return found[:limit]

    async def adopt(self, entries: Sequence[str]) -> Claimed:
        """The bodies of entries that are ours, as a delivery anew."""
        if not entries:
            return Claimed()
        commands = [pack("XCLAIM", self.topic, self.group, self.name, 0, *entries)]
        commands += [pack("XPENDING", self.topic, self.group, entry, entry, 1) for entry in entries]
        bodies, *counts = checked(
            await self._link.ask(b"".join(commands), len(commands)), f"claiming for {self._doing}"
        )
        attempts = {row[0]: row[3] for [row] in filter(None, counts)}
        whole = [body for body in bodies if body is not None and body[1] is not None]
        trimmed = await self._trimmed({entry.encode() for entry in entries} - {body[0] for body in whole})
        return Claimed(whole, [attempts.get(body[0], 1) for body in whole], trimmed)

    async def _trimmed(self, missing: Collection[bytes]) -> int:
        """How many of these were cut from the topic while they were pending. They are acknowledged.

        The others were completed meanwhile by whoever had them before.
        """
        if not missing:
            return 0
        commands = [pack("XRANGE", self.topic, entry, entry) for entry in missing]
        commands.append(pack("XACK", self.topic, self.group, *missing))
        *found, _ = checked(
            await self._link.ask(b"".join(commands), len(commands)), f"claiming for {self._doing}"
        )
        return sum(1 for entry in found if not entry)

    async def release(self, untouched: Mapping[str, int]) -> None:
        """Give back entries that nobody was given, with how often they had been delivered before."""
        for some in _chunks(list(untouched.items())):
            pairs = [argument for pair in some for argument in pair]
            call = RELEASE.call([self.topic], (self.group, self.name, RELEASED, *pairs))
            checked(await RELEASE.run(self._link, [call]), f"leaving {self._doing}")

    async def leave(self) -> None:
        """Give back all else that is pending in our name, and remove the name."""
        call = LEAVE.call([self.topic], (self.group, self.name, RELEASED, 0))
        checked(await LEAVE.run(self._link, [call]), f"leaving {self._doing}")

    async def bury(self, silent: float) -> None:
        """Remove the names of members that hold nothing and were silent for so many seconds: they died."""
        [consumers] = checked(
            await self._link.ask(pack("XINFO", "CONSUMERS", self.topic, self.group)),
            f"looking at {self._doing}",
        )
        longest = int(silent * 1000)
        for fields in map(fields_of, consumers):
            name = fields["name"].decode(errors="replace")
            if (
                name.startswith(PREFIX)
                and name != self.name
                and not fields["pending"]
                and fields["idle"] >= longest
            ):
                call = LEAVE.call([self.topic], (self.group, name, "", longest))
                checked(await LEAVE.run(self._link, [call]), f"looking at {self._doing}")


def fields_of(reply: Sequence[Any]) -> dict[str, Any]:
    """A reply of names and values in turn."""
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + _TOGETHER] for start in range(0, len(items), _TOGETHER))
