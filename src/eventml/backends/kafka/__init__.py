"""The Kafka backend: the log that scales past one machine. Needs the extra `kafka`.

It promises that a publish that returned is on all in-sync replicas; that every record is handled at least
once, because only offsets are committed before which all records are completed; and the order of records of
one key. With `delivery=exactly_once` one input gives one output, to readers of committed records. It does not
promise more than the topics' own replication and retention, and it does not deduplicate.

Reading order: `settings`, `errors`, `wire`, `fetching`, `packing`, `connection` (aiokafka's clients),
`partitions`, `commit_metadata`, `offset_fetch`, `admin`, `publishing`, `assignment`, `transactions`,
`completion`, `commits`, `member`, `subscription`, `reader`, and the backend here.
The package imports `eventml.backends.base`, `eventml.records`, `eventml.errors` and aiokafka.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio

from eventml.backends.base import Capabilities, NewTopic, Start, Subscription
from eventml.errors import ConfigError, MissingExtraError
from eventml.records import Record

try:
    from eventml.backends.kafka.admin import AdminClient
    from eventml.backends.kafka.completion import AtLeastOnce, ExactlyOnce
    from eventml.backends.kafka.connection import ClientFactory
    from eventml.backends.kafka.member import Member
    from eventml.backends.kafka.publishing import Publisher, Sender
    from eventml.backends.kafka.reader import Reader
    from eventml.backends.kafka.settings import Settings
    from eventml.backends.kafka.subscription import GroupSubscription, group_lag
    from eventml.backends.kafka.transactions import TransactionalClient
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "aiokafka":
        raise
    raise MissingExtraError("kafka", "kafka://") from exc


__all__ = ["KafkaBackend", "Settings", "capabilities", "open", "refused_topics"]

_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def capabilities(settings: Settings) -> Capabilities:
    """Guarantees of the backend with these settings."""
    return Capabilities(
        ordering="per_key",
        redelivery="leave",
        atomic_completion=settings.delivery == "exactly_once",
        durable=True,
        counts_attempts=True,
        shared=True,
        max_bytes=settings.max_bytes,
        tombstones=True,
        start_at_time=True,
    )


def refused_topics(names: Collection[str]) -> dict[str, str]:
    """As `RefusesTopics.refused_topics`."""
    refused: dict[str, str] = {}
    others: dict[str, str] = {}
    for name in sorted(names):
        other = others.setdefault(name.replace(".", "_"), name)
        if not _TOPIC.fullmatch(name) or name in {".", ".."}:
            refused[name] = "Kafka takes letters, digits, '.', '_' and '-', and 249 characters at most"
        elif other != name:
            refused[name] = f"Kafka has no two topics that differ in '.' and '_' only, as it and {other!r} do"
    return refused


class KafkaBackend:
    """A connection to Kafka; as `eventml.backends.base.Backend`, with `CreatesTopics` and `RefusesTopics`."""

    refused_topics = staticmethod(refused_topics)

    def __init__(self, clients: ClientFactory, admin: AdminClient, settings: Settings) -> None:
        self._clients = clients
        self._admin = admin
        self._settings = settings
        self._sender = Sender(admin, settings.max_request_size)
        self._publisher = Publisher(clients, self._sender, settings.publish_timeout)
        self._subscriptions: set[GroupSubscription] = set()
        self._name: str | None = None
        self._named: Counter[tuple[str, ...]] = Counter()  # subscriptions, by group and topics
        self.capabilities = capabilities(settings)

    def name_members(self, name: str) -> None:
        """As `NamesMembers.name_members`, by static membership.

        Raises:
            ConfigError: the user has named all members alike.
        """
        if self._settings.group_instance_id is not None:
            raise ConfigError(
                "backend.group_instance_id: leave it out with --workers. The supervisor names the members of "
                "each worker, and the process that replaces a dead worker gets its partitions back"
            )
        self._name = name

    async def publish(self, records: Sequence[Record]) -> None:
        """Write records; returns when all in-sync replicas have them.

        Raises:
            TopicNotFoundError: all of their topics are missing.
            PublishError: some were refused: too large, or of a missing topic.
            BackendError: the user may not write to a topic.
            UnavailableError: not all were written within `publish_timeout`; some may have been.
        """
        await self._publisher.publish(records)

    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AsyncIterator[Subscription]:
        """Join a group, or read without one.

        Raises:
            TopicNotFoundError: a topic is missing.
            BackendError: the user may not read a topic, or not join the group.
            UnavailableError: the brokers cannot be reached.
        """
        partitions = await self._admin.require_topics(topics)
        subscription: GroupSubscription | Reader
        if group is None:
            subscription = Reader(self._clients, self._publisher, partitions, self._settings.max_bytes)
            starting = subscription.start(start, self._admin, self._settings.publish_timeout)
        else:
            # A name has the topics: the place of a member that read others comes with their partitions.
            self._named[group, *sorted(topics)] += 1
            number = self._named[group, *sorted(topics)]
            name = self._name and f"{self._name}-{'-'.join(sorted(topics))}-{number}"
            subscription = GroupSubscription(
                lambda member: self._new_member(partitions, group, start, name and f"{name}.{member}"),
                topics=partitions,
                group=group,
                admin=self._admin,
                settings=self._settings,
            )
            starting = subscription.start()
        try:
            await starting
            if isinstance(subscription, GroupSubscription):
                self._subscriptions.add(subscription)
            yield subscription
        finally:
            if isinstance(subscription, GroupSubscription):
                self._subscriptions.discard(subscription)
            with anyio.CancelScope(shield=True):
                await subscription.close()

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        """The group's unfinished records by partition; None if there is no such group yet.

        None as well during a rebalance. On a topic that transactions write it is an upper bound.

        Raises:
            TopicNotFoundError: the topic is missing.
            UnavailableError: the brokers cannot be reached.
        """
        here = [assignment for s in self._subscriptions if s.group == group for assignment in s.assignments]
        found = await group_lag(self._admin, group, [topic], here)
        return None if found is None else {p.partition: lag for p, lag in found.items()}

    async def missing_topics(self, names: Sequence[str]) -> list[str]:
        """Those of the topics that do not exist.

        Raises:
            UnavailableError: the brokers cannot be reached.
        """
        found = await self._admin.partition_counts(names)
        return [name for name in names if name not in found]

    async def create_topics(self, topics: Sequence[NewTopic]) -> list[str]:
        """Create topics. Returns the names of those that did not exist; the others are left as they are.

        Raises:
            BackendError: the brokers refused one.
            UnavailableError: the brokers cannot be reached.
        """
        return await self._admin.create_topics(topics)

    async def close(self) -> None:
        """Send what is queued, and disconnect."""
        await self._publisher.close()
        await self._admin.close()

    def _new_member(self, topics: Mapping[str, int], group: str, start: Start, name: str | None) -> Member:
        completer: AtLeastOnce | ExactlyOnce = AtLeastOnce(self._publisher)
        if self._settings.delivery == "exactly_once":
            timeout = self._settings.publish_timeout
            completer = ExactlyOnce(
                TransactionalClient(self._clients, self._sender, self._admin, group, timeout)
            )
        return Member(
            self._clients,
            topics,
            group=group,
            start=start,
            admin=self._admin,
            completer=completer,
            settings=self._settings,
            name=name,
        )


@asynccontextmanager
async def open(url: str, settings: Settings) -> AsyncIterator[KafkaBackend]:  # noqa: A001 - the name in the seam
    """Connect to `kafka://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]`.

    Raises:
        UnavailableError: none of the brokers answers.
        ConfigError: the URL or a setting cannot be used, or the brokers refused the login.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError as exc:
        raise ConfigError("backend.url: kafka:// runs under asyncio, and under no other event loop") from exc
    clients = ClientFactory(url, settings)
    backend = KafkaBackend(clients, admin := AdminClient(clients, settings.publish_timeout), settings)
    try:
        await admin.start()
        yield backend
    finally:
        with anyio.CancelScope(shield=True):
            await backend.close()
