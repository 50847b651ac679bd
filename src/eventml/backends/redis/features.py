"""What a server can do, by what it says it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.backends.redis.commands import pack
from eventml.backends.redis.group import fields_of
from eventml.backends.redis.replies import ErrorReply
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from eventml.backends.redis.link import Link

_OLDEST: Final = (6, 2)
_IDEMPOTENT: Final = (8, 6)
_UNRELEASED: Final = (255,)  # what a server built from a branch calls itself


class Features(msgspec.Struct, frozen=True):
    """What is used where it is there.

    Attributes:
        idempotent: XADD recognises a repeat of what a producer wrote before.
        largest: Bytes of the largest argument that it takes; it hangs up on larger ones.
    """

    idempotent: bool = False
    largest: int = 512 << 20


async def detect(link: Link) -> Features:
    """Ask the server what it is.

    Raises:
        ConfigError: it is too old.
        UnavailableError: it does not answer.
    """
    hello, limit = await link.ask(pack("HELLO") + pack("CONFIG", "GET", "proto-max-bulk-len"), 2)
    features = Features() if type(hello) is ErrorReply else features_of(fields_of(hello))
    if type(limit) is list and limit:  # a user may be denied the question
        features = msgspec.structs.replace(features, largest=int(limit[1]))
    return features


def features_of(hello: dict[str, Any]) -> Features:
    """What a server's greeting says that it can do. One that says nothing can do the least.

    Raises:
        ConfigError: it is too old.
    """
    if hello.get("server") != b"redis":  # Valkey counts its versions otherwise, and was never older
        return Features()
    version = tuple(map(int, re.findall(rb"\d+", hello["version"])[:2]))
    if version < _OLDEST:
        raise ConfigError(
            f"backend.url: this is Redis {hello['version'].decode()}; eventml needs 6.2 or later, or Valkey"
        )
    return Features(idempotent=_IDEMPOTENT <= version < _UNRELEASED)
