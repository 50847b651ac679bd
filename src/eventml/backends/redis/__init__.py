"""The Redis Streams backend: `redis://`, `rediss://` and `unix://`.

What it promises: an entry that was published is delivered to every group until one of its members
has completed it, be it after the death of others; one output for one input, whoever stalls, dies or
wakes up; nothing that a group has not finished is removed, unless `max_length` asks for it. What it
does not: order among several members of a group; more durability than the server is set up for. See
docs/backends/redis.md.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from eventml.errors import MissingExtraError, UnsupportedError

try:
    import hiredis  # noqa: F401 - to say at once what is missing
    import redis.asyncio  # noqa: F401 - the same
except ImportError as exc:
    raise MissingExtraError("redis", "the backend redis://") from exc

from eventml.backends.redis.address import parse
from eventml.backends.redis.backend import RedisBackend, capabilities
from eventml.backends.redis.cluster import Cluster
from eventml.backends.redis.connecting import OneServer, SentinelMaster
from eventml.backends.redis.equipment import Equipment
from eventml.backends.redis.features import detect
from eventml.backends.redis.link import Link
from eventml.backends.redis.losses import Losses
from eventml.backends.redis.retention import Retention
from eventml.backends.redis.settings import Settings
from eventml.backends.redis.wire import EntryDecoder, HeaderEncoder
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.backends.redis.connecting import Connector

__all__ = ["Losses", "RedisBackend", "Settings", "capabilities", "open"]


@asynccontextmanager
async def open(url: str, settings: Settings) -> AsyncIterator[RedisBackend]:  # noqa: A001 - the seam's name for it
    """Connect to a server, to the master that Sentinels name, or to a cluster.

    Raises:
        UnavailableError: nobody answers there.
        ConfigError: the URL or a setting makes no sense, the server does not let us in or is too old.
        UnsupportedError: not on asyncio.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise UnsupportedError(
            "backend.url: redis:// runs on asyncio; start the bus with asyncio.run, or anyio.run without a "
            "backend of its own"
        ) from None
    connector = _connector(url, settings)
    losses = Losses()
    equipment = Equipment(
        settings=settings,
        connector=connector,
        decoder=EntryDecoder(),
        headers=HeaderEncoder(),
        retention=Retention(settings, losses),
        losses=losses,
    )
    first = Link(connector, 0, settings.timeout)
    try:
        features = await detect(first)
    finally:
        with anyio.CancelScope(shield=True):
            await first.close()
    backend = RedisBackend(equipment, features)
    try:
        yield backend
    finally:
        with anyio.CancelScope(shield=True):
            await backend.close()


def _connector(url: str, settings: Settings) -> Connector:
    address = parse(url, db=settings.db, sentinel=settings.sentinel is not None)
    if settings.sentinel is not None:
        if settings.cluster or address.path is not None:
            raise ConfigError(
                "backend.sentinel: Sentinels watch over one master, reached by redis:// or rediss://"
            )
        return SentinelMaster(address, settings)
    if settings.cluster:
        if address.path is not None or address.db:
            raise ConfigError("backend.cluster: a cluster has no sockets and no databases but 0")
        return Cluster(address, settings)
    if len(address.hosts) > 1:
        raise ConfigError(
            "backend.url: several hosts are either the nodes of a cluster, with ?cluster=true, or Sentinels, "
            "with ?sentinel=NAME"
        )
    return OneServer(address, settings)
