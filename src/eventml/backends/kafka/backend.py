"""The Kafka backend itself: what it can do, and who does it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from eventml.backends.base import Capabilities
from eventml.backends.kafka import topics as topic_admin
from eventml.backends.kafka.completing import AtLeastOnce
from eventml.backends.kafka.counting import Counting
from eventml.backends.kafka.exactly_once import ExactlyOnce
from eventml.backends.kafka.lag import group_lag
from eventml.backends.kafka.member import Member
from eventml.backends.kafka.publisher import Publisher
from eventml.backends.kafka.reader import Reader
from eventml.backends.kafka.remembering import Remembering, seen_topic
from eventml.backends.kafka.sending import Sender
from eventml.backends.kafka.subscription import Subscription
from eventml.backends.kafka.transactions import Means

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from eventml.backends import base
    from eventml.backends.base import NewTopic, Start
    from eventml.backends.kafka.clients import Clients
    from eventml.backends.kafka.completing import Completing
    from eventml.backends.kafka.observer import Observer
    from eventml.backends.kafka.settings import Settings
    from eventml.records import Record


def capabilities(settings: Settings) -> Capabilities:
    """What holds with these settings."""
    return Capabilities(
        ordering="per_key",
        redelivery="leave",
        atomic_completion=settings.delivery == "exactly_once",
        durable=True,
        counts_attempts=True,
        shared=True,
        deduplicates=True,
    )


class KafkaBackend:
    """A connection to Kafka; as `eventml.backends.base.Backend`.

    Args:
        clients: Makes aiokafka's clients.
        observer: Connected.
        settings: The backend's.
    """

    def __init__(self, clients: Clients, observer: Observer, settings: Settings) -> None:
        self._clients = clients
        self._observer = observer
        self._settings = settings
        self._counting = Counting(observer)
        self._sender = Sender(observer, settings.max_request_size)
        self._publisher = Publisher(clients, self._sender, settings.publish_timeout)
        self._subscriptions: dict[Subscription, str] = {}
        self.capabilities = capabilities(settings)

    async def publish(self, records: Sequence[Record]) -> None:
        """Write records; returns when all in-sync replicas have them.

        Raises:
            TopicNotFoundError: none of their topics is there.
            PublishError: some were refused: too large, or of a topic that is not there.
            UnavailableError: not all were written within `publish_timeout`; some may have been.
        """
        await self._publisher.publish(records)

    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AsyncIterator[base.Subscription]:
        """Join a group, or read alone.

        Raises:
            TopicNotFoundError: a topic is not there.
            UnavailableError: the brokers are out of reach.
        """
        partitions = await self._observer.require(topics)
        if group is None:
            reader = Reader(self._clients, self._publisher)
            try:
                await reader.start(partitions, start, self._observer, self._settings.publish_timeout)
                yield reader
            finally:
                with anyio.CancelScope(shield=True):
                    await reader.close()
            return
        async with self._joined(partitions, group, start) as subscription:
            yield subscription

    @asynccontextmanager
    async def subscribe_deduplicated(
        self, topics: Sequence[str], *, group: str, start: Start, window: int
    ) -> AsyncIterator[base.DedupeSubscription]:
        """As `subscribe`; of each partition, the group remembers the last `within` ids that it finished.

        They are kept in the topic `<topic>.<group>.seen`, which is created.

        Raises:
            TopicNotFoundError: a topic is not there.
            BackendError: the brokers do not let us create a topic for what is remembered.
            UnsupportedError: that topic has fewer partitions than what it remembers.
            UnavailableError: the brokers are out of reach.
        """
        partitions = await self._observer.require(topics)
        for topic, count in partitions.items():
            await topic_admin.create_memory(self._observer, seen_topic(topic, group), count)
        async with self._joined(partitions, group, start, window) as subscription:
            yield subscription

    @asynccontextmanager
    async def _joined(
        self, topics: Mapping[str, int], group: str, start: Start, window: int | None = None
    ) -> AsyncIterator[Subscription]:
        subscription = Subscription(
            lambda: self._new_member(list(topics), group, start, window),
            topics=topics,
            group=group,
            observer=self._observer,
            counting=self._counting,
            settings=self._settings,
        )
        try:
            await subscription.start()
            self._subscriptions[subscription] = group
            yield subscription
        finally:
            self._subscriptions.pop(subscription, None)
            with anyio.CancelScope(shield=True):
                await subscription.close()

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        """The group's unfinished records by partition; None where there is no such group yet.

        None as well where transactions write to the topic and too much waits to be counted.

        Raises:
            TopicNotFoundError: the topic is not there.
            UnavailableError: the brokers are out of reach.
        """
        partitions = await self._observer.require([topic])
        here = [s.assignment for s, of in self._subscriptions.items() if of == group]
        found = await group_lag(self._observer, self._counting, group, partitions, here)
        return None if found is None else {p.partition: lag for p, lag in found.items()}

    async def missing_topics(self, names: Sequence[str]) -> list[str]:
        """Which of these topics are not there.

        Raises:
            UnavailableError: the brokers are out of reach.
        """
        found = await self._observer.partitions(names)
        return [name for name in names if name not in found]

    async def create_topics(self, topics: Sequence[NewTopic]) -> list[str]:
        """Create topics. Returns the names of those that were not there; the others are left as they are.

        Raises:
            BackendError: the brokers refused one.
            UnavailableError: the brokers are out of reach.
        """
        return await topic_admin.create(self._observer, topics)

    async def close(self) -> None:
        """Send what is on its way, and disconnect."""
        await self._publisher.close()
        await self._observer.close()

    def _new_member(self, topics: Sequence[str], group: str, start: Start, window: int | None) -> Member:
        largest = self._settings.max_request_size
        remembering = None if window is None else Remembering(self._observer, group, window, largest)
        return Member(
            self._clients,
            topics,
            group=group,
            start=start,
            observer=self._observer,
            completing=self._completing(group, remembering),
            remembering=remembering,
            settings=self._settings,
        )

    def _completing(self, group: str, remembering: Remembering | None) -> Completing:
        if self._settings.delivery == "at_least_once":
            return AtLeastOnce(self._publisher, remembering)
        timeout = self._settings.publish_timeout
        return ExactlyOnce(Means(self._clients, self._sender, self._observer, group, timeout, remembering))
