"""The Lua scripts that run inside the server, each in a file beside this one.

`complete` completes a batch; `renew`, `release` and `leave` keep the leases of one consumer; `trim` and
`cap` remove entries; `count` counts unread entries. Each file says what its keys and arguments are.
"""

from __future__ import annotations

from hashlib import sha1
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from eventml.backends.redis.connection import Client, pack
from eventml.backends.redis.errors import ErrorReply

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CAP", "COMPLETE", "COUNT", "LEAVE", "RELEASE", "RENEW", "TRIM", "Script"]


class Script:
    """A script, which the server knows by its digest once it has been sent.

    Args:
        name: The name of its file, without the suffix.

    Attributes:
        source: The text of the script.
        digest: The SHA-1 of the text in hexadecimal, by which EVALSHA names the script.
    """

    def __init__(self, name: str) -> None:
        self.source = (resources.files(__name__) / f"{name}.lua").read_bytes()
        self.digest = sha1(self.source, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> bytes:
        """The packed command that runs the script."""
        return pack("EVALSHA", self.digest, len(keys), *keys, *arguments)

    async def run(self, client: Client, calls: Sequence[bytes]) -> list[Any]:
        """Run packed calls of the script in their order. Returns their replies, errors in their places.

        Raises:
            ConnectionLostError: the connection was lost before the replies came.
            UnavailableError: the server cannot be reached. Nothing was sent.
            DeniedError: the server refuses the user or the password. Nothing was sent.
        """
        replies = await client.request(b"".join(calls), len(calls))
        unknown = [
            position
            for position, reply in enumerate(replies)
            if type(reply) is ErrorReply and reply.code == "NOSCRIPT"
        ]
        if unknown:  # the server has restarted, and has not run these calls
            repeated = await client.request(
                pack("SCRIPT", "LOAD", self.source) + b"".join(calls[position] for position in unknown),
                1 + len(unknown),
            )
            for position, reply in zip(unknown, repeated[1:], strict=True):
                replies[position] = reply
        return replies


COMPLETE: Final = Script("complete")
RENEW: Final = Script("renew")
RELEASE: Final = Script("release")
LEAVE: Final = Script("leave")
TRIM: Final = Script("trim")
CAP: Final = Script("cap")
COUNT: Final = Script("count")
