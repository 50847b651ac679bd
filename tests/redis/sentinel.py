"""A Redis Sentinel that watches one master."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from backends.process import LOOPBACK, ServerProcess, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backends.redis.server import RedisServer

FAILOVER_TIMEOUT = 3000
"""Milliseconds: Sentinel tries no second failover of a master within twice this time."""


@contextmanager
def sentinel(
    master: RedisServer, folder: Path, failover_timeout: int = FAILOVER_TIMEOUT, down_after: int = 500
) -> Iterator[str]:
    """One Sentinel that watches a master, named `main`, and decides alone. Its address.

    It replaces a master that has not answered for `down_after` milliseconds.
    """
    port = next(free_ports())
    config = folder / "sentinel.conf"
    config.write_text(
        f"bind {LOOPBACK}\nport {port}\ndir {folder}\n"
        f"sentinel monitor main {LOOPBACK} {master.port} 1\n"
        f"sentinel down-after-milliseconds main {down_after}\n"
        f"sentinel failover-timeout main {failover_timeout}\n"
    )
    process = ServerProcess([str(master.executable), str(config), "--sentinel"], log=folder / "sentinel.log")
    try:
        yield f"{LOOPBACK}:{port}"
    finally:
        process.kill()
