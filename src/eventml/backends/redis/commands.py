"""Commands, packed as the server reads them (RESP, redis.io/docs/latest/develop/reference/protocol-spec)."""

from __future__ import annotations

from typing import Any, Final

import hiredis

_pack: Final[Any] = hiredis.pack_command  # Any: its own types want a tuple of one


def pack(*arguments: str | bytes | int) -> bytes:
    """One command."""
    packed: bytes = _pack(arguments)
    return packed


def bulk(argument: bytes) -> bytes:
    """One argument of a command."""
    return b"$%d\r\n%b\r\n" % (len(argument), argument)
