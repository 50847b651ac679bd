"""The Redis Streams backend: `redis://`, `rediss://` and `unix://`. See docs/backends/redis.md.

An entry that was published is delivered to every group until a member has completed it, also after the
death of others. One input has one output, even if a member stalls, dies, or continues after its lease has
expired. An entry that a group has not finished is never removed, unless `max_length` requires it. There is
no order among several members of a group, and no more durability than the server is set up for.

In reading order:

- `settings`: the settings and the URL; `errors`: error replies and the exceptions they become.
- `connection`: pipelined connections; `servers`: one server, Sentinels or a cluster, and what it supports.
- `scripts/`: the Lua scripts that run inside the server; `wire`: records as entries, and back.
- `retention`: keeping topics short; `publishing`: writing records.
- `group`: a consumer group at a topic; `leases`: the deliveries of one member.
- `completion`: outputs and ack in one step.
- `reader`: reading ahead, and reading without a group; `member`: the subscription of a group.

It imports `eventml.records`, `eventml.errors` and `eventml.backends.base`, and hiredis.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from eventml.backends.base import Capabilities, DedupeSubscription, Start, Subscription
from eventml.errors import MissingExtraError, UnsupportedError

try:
    import hiredis  # noqa: F401 - to name the missing extra at once
except ImportError as exc:
    raise MissingExtraError("redis", "the backend redis://") from exc

from eventml.backends.redis.completion import Completer
from eventml.backends.redis.group import group_lag
from eventml.backends.redis.member import Member
from eventml.backends.redis.publishing import Publisher
from eventml.backends.redis.reader import Reader
from eventml.backends.redis.retention import trim_old
from eventml.backends.redis.servers import Counters, Server, find_server
from eventml.backends.redis.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventml.records import Record

__all__ = ["Counters", "RedisBackend", "Settings", "capabilities", "open"]


def capabilities(settings: Settings) -> Capabilities:
    """What the backend guarantees with these settings."""
    return Capabilities(
        ordering="single_member",
        redelivery="lease",
        atomic_completion=settings.atomic or not settings.cluster,
        durable=True,
        counts_attempts=True,
        shared=True,
        deduplicates=True,
    )


@asynccontextmanager
async def open(url: str, settings: Settings) -> AsyncIterator[RedisBackend]:  # noqa: A001 - the seam's name for it
    """Connect to a server, to the master that Sentinels name, or to a cluster.

    Raises:
        UnavailableError: the server cannot be reached.
        ConfigError: the URL or a setting is wrong, the server refuses the user, or is too old.
        UnsupportedError: the event loop is not asyncio's.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise UnsupportedError(
            "backend.url: redis:// runs on asyncio; start the bus with asyncio.run, or anyio.run without a "
            "backend of its own"
        ) from None
    backend = RedisBackend(await find_server(url, settings))
    try:
        yield backend
    finally:
        with anyio.CancelScope(shield=True):
            await backend.close()


class RedisBackend:
    """See `eventml.backends.base.Backend`. Made by `open`.

    Attributes:
        counters: What has happened on this backend's connections: entries lost or claimed, duplicates.
    """

    def __init__(self, server: Server) -> None:
        self.counters = server.counters
        self._server = server
        self._publisher = Publisher(server)
        self._completer = Completer(server, self._publisher)

    @property
    def capabilities(self) -> Capabilities:
        """What the backend guarantees as it is set up."""
        return capabilities(self._server.settings)

    async def publish(self, records: Sequence[Record]) -> None:
        """See `Backend.publish`. A call of up to 1,000 records to one slot is one transaction."""
        await self._publisher.publish(records)

    def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AbstractAsyncContextManager[Subscription]:
        """See `Backend.subscribe`. A topic that does not exist is created."""
        if group is None:
            return Reader(self._server, topics, self._publisher).started(start)
        return Member(self._server, topics, group, self._completer).joined(start)

    def subscribe_deduplicated(
        self, topics: Sequence[str], *, group: str, start: Start, window: int
    ) -> AbstractAsyncContextManager[DedupeSubscription]:
        """See `Deduplicates.subscribe_deduplicated`. The ids are in the sorted set `<topic>.<group>.seen`.

        Raises:
            UnsupportedError: on a cluster, where that set would be in another slot than its topic.
        """
        for topic in topics:
            self._completer.check_deduplication(topic, group)
        return Member(self._server, topics, group, self._completer, window=window).joined(start)

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        """See `Backend.lag`. There is one partition, 0."""
        found = await group_lag(self._publisher.client(topic), topic, group)
        return None if found is None else {0: found}

    async def trim(self, topic: str, *, older_than: float) -> None:
        """See `TrimsTopics.trim`. The stream is deleted once it has not been trimmed for an hour."""
        await trim_old(self._publisher.client(topic), topic, older_than)

    def check_outputs(self, topic: str, outputs: Iterable[str]) -> None:
        """See `ChecksOutputs.check_outputs`.

        Raises:
            UnsupportedError: on a cluster, where the outputs are in another slot; says what to do.
        """
        self._completer.check_outputs(topic, outputs)

    async def close(self) -> None:
        """Close the connections that publish. Subscriptions close their own."""
        await self._publisher.close()
