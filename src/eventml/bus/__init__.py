"""The bus: registers topics and handlers, publishes events, and runs handlers on the configured backend.

Read `router.py` (registering) and `bus.py` first. `connection.py` has declared topics, and what opening a bus
connects; `reading.py` is `Bus.read`; `running.py` runs and stops a worker; `app.py` imports the bus at
MODULE:NAME, and lists and creates its topics; `asyncapi.py` describes them. It may import config, handlers,
producer and runtime; deployments and the command line import it.
"""

from eventml.bus.app import create_topics, import_bus, import_predictor, topics_of
from eventml.bus.asyncapi import asyncapi_document
from eventml.bus.bus import Bus
from eventml.bus.connection import Topic
from eventml.bus.reading import ReadDelivery, read_batches
from eventml.bus.router import Router
from eventml.bus.running import Background, WebApplication, run_until_signal, stop_on_signals, stop_when_idle

__all__ = [
    "Background",
    "Bus",
    "ReadDelivery",
    "Router",
    "Topic",
    "WebApplication",
    "asyncapi_document",
    "create_topics",
    "import_bus",
    "import_predictor",
    "read_batches",
    "run_until_signal",
    "stop_on_signals",
    "stop_when_idle",
    "topics_of",
]
