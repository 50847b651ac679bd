"""The Redis Streams backend: `redis://`, `rediss://` and `unix://`. See docs/backends/redis.md.

An entry that was published is delivered to every group until a member has completed it, also after the
death of others. One input has one output, even if a member stalls, dies, or continues after its lease has
expired. An entry that a group has not finished is never removed, unless `max_length` requires it. There is
no order among several members of a group, and no more durability than the server is set up for.

In reading order:

- `settings`: the settings and the URL; `errors`: error replies and the exceptions they become.
- `connection`: pipelined connections, and logging in; `server`: requests and scripts.
- `scripts/`: the Lua scripts that run inside the server.
- `cluster`: Sentinels and clusters, their nodes and slots.
- `wire`: records as entries, and back; `publishing`: writing records, and `max_length`.
- `leases`: leases, claiming, lag and `retention` at one topic; `completion`: outputs and ack in one step.
- `reader`: reading ahead, and reading without a group; `member`: the subscription of a group.

It imports `eventml.records`, `eventml.errors` and `eventml.backends.base`, and hiredis.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import Final

from eventml.backends.base import Capabilities, DedupeSubscription, Start, Subscription
from eventml.errors import MissingExtraError, UnsupportedError

try:
    import hiredis  # noqa: F401 - to name the missing extra at once
except ImportError as exc:
    raise MissingExtraError("redis", "the backend redis://") from exc

# By another name: `check_topics` would take this module for one that implements `ChecksOutputs`.
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from eventml.backends.redis.cluster import check_outputs as _check_slots
from eventml.backends.redis.cluster import find_server, same_slot_names
from eventml.backends.redis.connection import pack
from eventml.backends.redis.errors import check_replies
from eventml.backends.redis.leases import dedupe_key, group_lag
from eventml.backends.redis.member import Member
from eventml.backends.redis.publishing import Publisher
from eventml.backends.redis.reader import Reader
from eventml.backends.redis.settings import Settings
from eventml.records import Record

__all__ = ["RedisBackend", "Settings", "capabilities", "open"]

_EXPIRE_AFTER: Final = 3_600  # seconds after the last `trim`


def capabilities(settings: Settings) -> Capabilities:
    """Guarantees of the backend with these settings."""
    return Capabilities(
        ordering="single_member",
        redelivery="lease",
        atomic_completion=True,
        durable=True,
        counts_attempts=True,
        shared=True,
        deduplicates=True,
        max_bytes=settings.max_bytes,
        start_at_time=True,
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
    publisher = Publisher(await find_server(url, settings))
    try:
        yield RedisBackend(publisher)
    finally:
        publisher.close()


class RedisBackend:
    """See `eventml.backends.base.Backend`. Made by `open`."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._name: str | None = None
        self._members: dict[tuple[str, str], int] = {}  # the highest number, by group and topic
        self.capabilities = capabilities(publisher.server.settings)

    def name_members(self, name: str) -> None:
        """See `NamesMembers.name_members`."""
        self._name = name

    async def publish(self, records: Sequence[Record]) -> None:
        """See `Backend.publish`. A call of up to 1,000 records to one slot is one transaction."""
        await self._publisher.publish(records)

    def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AbstractAsyncContextManager[Subscription]:
        """See `Backend.subscribe`. A topic that does not exist is created."""
        if group is None:
            return Reader(self._publisher, topics).started(start)
        return self._member(topics, group).joined(start)

    def subscribe_deduplicated(
        self, topics: Sequence[str], *, group: str, start: Start, window: int
    ) -> AbstractAsyncContextManager[DedupeSubscription]:
        """See `Deduplicates.subscribe_deduplicated`. The ids are in the sorted set `<topic>.<group>.seen`.

        Raises:
            UnsupportedError: on a cluster, where that set would be in another slot than its topic.
        """
        for topic in topics:
            if self._publisher.server.slot(topic) != self._publisher.server.slot(dedupe_key(topic, group)):
                tagged, _ = same_slot_names(topic, topic)
                raise UnsupportedError(
                    f"dedupe_window: the ids that group {group!r} records are in another slot of the cluster "
                    f"than {topic!r}. Give the topic a hash tag, as in {tagged!r}"
                )
        return self._member(topics, group, window).joined(start)

    def _member(self, topics: Sequence[str], group: str, window: int = 0) -> Member:
        # One number for all topics of a member, and at each of them that of no other one of its group.
        number = 1 + max(self._members.get((group, topic), 0) for topic in topics)
        self._members.update(((group, topic), number) for topic in topics)
        name = None if self._name is None else f"{self._name}-{number}"
        return Member(self._publisher, topics, group, name=name, window=window)

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        """See `Backend.lag`. There is one partition, 0."""
        found = await group_lag(self._publisher.client(topic), topic, group)
        return None if found is None else {0: found}

    async def trim(self, topic: str, *, older_than: float) -> None:
        """See `TrimsTopics.trim`. The stream is deleted once it has not been trimmed for an hour."""
        oldest = int((time.time() - older_than) * 1000)
        commands = pack("XTRIM", topic, "MINID", oldest) + pack("EXPIRE", topic, _EXPIRE_AFTER)
        check_replies(await self._publisher.client(topic).request(commands, 2), f"trimming {topic!r}")

    def check_outputs(self, topic: str, outputs: Iterable[str]) -> None:
        """See `ChecksOutputs.check_outputs`.

        Raises:
            UnsupportedError: on a cluster, where the outputs are in another slot; says what to do.
        """
        _check_slots(self._publisher.server, topic, outputs)
