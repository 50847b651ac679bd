"""The bus: where producers announce and handlers register, whatever carries the events."""

from eventml.bus.bus import Bus
from eventml.bus.importing import import_bus, import_predictor
from eventml.bus.stopping import Stoppable, stop_on_signals, stop_when_idle
from eventml.bus.topic import Topic, TopicChoices

__all__ = [
    "Bus",
    "Stoppable",
    "Topic",
    "TopicChoices",
    "import_bus",
    "import_predictor",
    "stop_on_signals",
    "stop_when_idle",
]
