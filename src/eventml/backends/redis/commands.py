"""Commands, packed as the server reads them (RESP, redis.io/docs/latest/develop/reference/protocol-spec)."""

from __future__ import annotations

import hiredis


def pack(*arguments: str | bytes | int) -> bytes:
    """One command."""
    packed: bytes = hiredis.pack_command(arguments)
    return packed


def bulk(argument: bytes) -> bytes:
    """One argument of a command."""
    return b"$%d\r\n%b\r\n" % (len(argument), argument)
