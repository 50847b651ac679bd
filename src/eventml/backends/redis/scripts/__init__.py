"""The scripts that run inside the server, each in a file beside this one."""

from __future__ import annotations

from hashlib import sha1
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from eventml.backends.redis.commands import pack
from eventml.backends.redis.replies import ErrorReply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.redis.link import Link

    Argument = str | bytes | int


class Script:
    """One script. The server knows it by its digest, once it has been sent."""

    def __init__(self, name: str) -> None:
        self.source = (resources.files(__name__) / f"{name}.lua").read_bytes()
        # SHA-1 is how Redis names scripts; nothing is protected by it.
        self.digest = sha1(self.source, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], arguments: Sequence[Argument]) -> bytes:
        """The packed command that runs it."""
        return pack("EVALSHA", self.digest, len(keys), *keys, *arguments)

    async def run(self, link: Link, calls: Sequence[bytes]) -> list[Any]:
        """Run calls of it, one after the other, and return their replies, errors in their places.

        Raises:
            LostError: the connection was lost on the way.
            UnavailableError: the server cannot be reached. Nothing has been sent.
        """
        replies = await link.ask(b"".join(calls), len(calls))
        unknown = [position for position, reply in enumerate(replies) if _unknown(reply)]
        if unknown:  # which means that it has not run
            again = await link.ask(
                pack("SCRIPT", "LOAD", self.source) + b"".join(calls[position] for position in unknown),
                1 + len(unknown),
            )
            for position, reply in zip(unknown, again[1:], strict=True):
                replies[position] = reply
        return replies


def _unknown(reply: Any) -> bool:
    return type(reply) is ErrorReply and reply.code == "NOSCRIPT"


COMPLETE: Final = Script("complete")
RENEW: Final = Script("renew")
RELEASE: Final = Script("release")
LEAVE: Final = Script("leave")
TRIM: Final = Script("trim")
CAP: Final = Script("cap")
WAITING: Final = Script("waiting")
