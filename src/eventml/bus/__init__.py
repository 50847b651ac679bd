"""The bus: registers topics and handlers, publishes events, and runs handlers on the configured backend.

Read `bus.py` first, then `declarations.py` (topics, lifespans, and settings applied to them). `topics.py`
lists and creates an app's topics, `importing.py` imports the bus at
MODULE:NAME, `stopping.py` stops a worker, `web.py` finds the web deployment for
`Bus.asgi`. It may import config, handlers, producer and runtime; deployments and the command line import it.
"""

from eventml.bus.bus import Bus
from eventml.bus.declarations import Topic
from eventml.bus.importing import import_bus, import_predictor
from eventml.bus.stopping import Stoppable, stop_on_signals, stop_when_idle
from eventml.bus.topics import create_topics, topics_of
from eventml.bus.web import WebApplication

__all__ = [
    "Bus",
    "Stoppable",
    "Topic",
    "WebApplication",
    "create_topics",
    "import_bus",
    "import_predictor",
    "stop_on_signals",
    "stop_when_idle",
    "topics_of",
]
