"""The bus: where producers announce and handlers register, whatever carries the events."""

from eventml.bus.bus import Bus
from eventml.bus.topic import Topic, TopicChoices

__all__ = ["Bus", "Topic", "TopicChoices"]
