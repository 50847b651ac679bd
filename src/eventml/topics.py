"""The topics of an app: which there are, and creating them where somebody has to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from eventml.backends.base import CreatesTopics, NewTopic
from eventml.config import TopicSettings
from eventml.runtime import dead_letter_topic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.bus import Bus


def topics_of(bus: Bus, **replaced: int | None) -> list[NewTopic]:
    """All the topics that a bus has to do with, dead letters' included, and what is said of each, by name.

    Args:
        bus: The bus, configured.
        replaced: What is said of all of them, `partitions` or `replication`; None says nothing.
    """
    names = {*bus.topics, *bus.settings.topic}
    for handler in map(bus.configured, bus.handlers):
        names |= {handler.topic, dead_letter_topic(handler.topic, handler.options.group)}
        if handler.to is not None:
            names.add(handler.to)
    strongest = {name: value for name, value in replaced.items() if value is not None}
    return [structs.replace(_new(bus, name), **strongest) for name in sorted(names)]


async def create_topics(bus: Bus, wanted: Sequence[NewTopic] | None = None) -> Sequence[str] | None:
    """Create those of an open bus's topics that are not there, and return their names.

    None where the backend needs none created: a topic is there once something goes to it.
    """
    if not isinstance(bus.backend, CreatesTopics):
        return None
    return await bus.backend.create_topics(topics_of(bus) if wanted is None else wanted)


def _new(bus: Bus, name: str) -> NewTopic:
    said = bus.settings.topic.get(name, TopicSettings())
    return NewTopic(
        name=name, partitions=said.partitions, replication=said.replication, retention=said.retention
    )
