"""The topics of an app: listing them, and creating those that are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.backends.base import CreatesTopics, NewTopic
from eventml.bus.bus import Bus
from eventml.config import TopicSettings
from eventml.runtime import dead_letter_topic

if TYPE_CHECKING:
    from collections.abc import Sequence


def topics_of(bus: Bus, *, partitions: int | None = None, replication: int | None = None) -> list[NewTopic]:
    """All topics that a bus declares, configures, reads or writes, dead-letter topics included, by name.

    Args:
        bus: The bus, configured.
        partitions: Number of partitions of each topic, in place of its setting.
        replication: Number of replicas of each topic, in place of its setting.
    """
    names = {*bus.topics, *bus.settings.topic}
    for handler in map(bus.configured_handler, bus.handlers):
        names |= {handler.topic, dead_letter_topic(handler.topic, handler.options.group)}
        if handler.to is not None:
            names.add(handler.to)
    topics = []
    for name in sorted(names):
        settings = bus.settings.topic.get(name, TopicSettings())
        topics.append(
            NewTopic(
                name=name,
                partitions=settings.partitions if partitions is None else partitions,
                replication=settings.replication if replication is None else replication,
                retention=settings.retention,
            )
        )
    return topics


async def create_topics(bus: Bus, topics: Sequence[NewTopic] | None = None) -> Sequence[str] | None:
    """Create the topics of an open bus that do not exist yet.

    Args:
        bus: The bus, open.
        topics: The topics to create; by default those of `topics_of`.

    Returns:
        The names of the topics created. None if the backend creates a topic with its first record.

    Raises:
        BackendError: A topic cannot be created.
    """
    if not isinstance(bus.backend, CreatesTopics):
        return None
    return await bus.backend.create_topics(topics_of(bus) if topics is None else topics)
