"""A connection to Redis: publishing, and what makes subscriptions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from eventml.backends.base import Capabilities
from eventml.backends.redis.commands import pack
from eventml.backends.redis.completer import Completer
from eventml.backends.redis.lag import unfinished
from eventml.backends.redis.member import Member, joined
from eventml.backends.redis.publishing import Publisher
from eventml.backends.redis.reader import Reader, reading
from eventml.backends.redis.replies import checked

_FORGOTTEN_AFTER: Final = 3600  # seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventml.backends.base import DedupeSubscription, Start, Subscription
    from eventml.backends.redis.equipment import Equipment
    from eventml.backends.redis.features import Features
    from eventml.backends.redis.losses import Losses
    from eventml.backends.redis.settings import Settings
    from eventml.records import Record


def capabilities(settings: Settings) -> Capabilities:
    """What holds with these settings."""
    return Capabilities(
        ordering="single_member",
        redelivery="lease",
        atomic_completion=settings.atomic or not settings.cluster,
        durable=True,
        counts_attempts=True,
        shared=True,
        deduplicates=True,
    )


class RedisBackend:
    """See `eventml.backends.base.Backend`. Made by `open`."""

    def __init__(self, equipment: Equipment, features: Features) -> None:
        self._equipment = equipment
        self._publisher = Publisher(
            equipment.connector,
            equipment.settings,
            headers=equipment.headers,
            retention=equipment.retention,
            features=features,
        )
        self._completer = Completer(equipment, features, self._publisher)

    @property
    def capabilities(self) -> Capabilities:
        """What holds on this server as it is set up."""
        return capabilities(self._equipment.settings)

    @property
    def losses(self) -> Losses:
        """Counters of what was lost through this connection, or nearly."""
        return self._equipment.losses

    async def publish(self, records: Sequence[Record]) -> None:
        """See `Backend.publish`. A call of up to 1,000 records to one slot is one transaction."""
        await self._publisher.publish(records)

    def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AbstractAsyncContextManager[Subscription]:
        """See `Backend.subscribe`. A topic comes into being by being subscribed to."""
        if group is None:
            return reading(Reader(self._equipment, topics, self._publisher), start)
        return joined(Member(self._equipment, topics, group, self._completer), start)

    def subscribe_deduplicated(
        self, topics: Sequence[str], *, group: str, start: Start, window: int
    ) -> AbstractAsyncContextManager[DedupeSubscription]:
        """See `Deduplicates.subscribe_deduplicated`. The ids are in the sorted set `<topic>.<group>.seen`.

        Raises:
            UnsupportedError: on a cluster, where a topic has no hash tag to hold that set to its slot.
        """
        for topic in topics:
            self._completer.check_remembering(topic, group)
        return joined(Member(self._equipment, topics, group, self._completer, window=window), start)

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        """See `Backend.lag`. There is one partition, 0."""
        link = self._publisher.link(self._equipment.connector.slot(topic))
        found = await unfinished(link, topic, group)
        return None if found is None else {0: found}

    async def trim(self, topic: str, *, older_than: float) -> None:
        """See `TrimsTopics.trim`. The stream goes altogether once nothing has been trimmed for an hour."""
        oldest = int((time.time() - older_than) * 1000)
        link = self._publisher.link(self._equipment.connector.slot(topic))
        asked = pack("XTRIM", topic, "MINID", oldest) + pack("EXPIRE", topic, _FORGOTTEN_AFTER)
        checked(await link.ask(asked, 2), f"trimming {topic!r}")

    def check_outputs(self, topic: str, outputs: Iterable[str]) -> None:
        """Whether inputs of a topic can be completed together with outputs to others, before any is.

        Raises:
            UnsupportedError: not on this cluster, with these names; says what to do.
        """
        self._completer.check(topic, outputs)

    async def close(self) -> None:
        """Close the connections that publish. Subscriptions close their own."""
        await self._publisher.close()
