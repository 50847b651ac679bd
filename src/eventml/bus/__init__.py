"""The bus: where producers announce and handlers register, whatever carries the events."""

from eventml.bus.bus import Bus
from eventml.bus.stopping import Stoppable, stop_on_signals, stop_when_idle
from eventml.bus.topic import Topic, TopicChoices

__all__ = ["Bus", "Stoppable", "Topic", "TopicChoices", "stop_on_signals", "stop_when_idle"]
