"""Producers: publish events and send requests, from coroutines and from blocking code.

Read `producer.py` first; it uses `coalescing.py` (concurrent publishes share one write) and `requests.py`
(requests and their replies). This package may import runtime, codec, records and backends.base.
"""

from eventml.producer.producer import BlockingProducer, Producer

__all__ = ["BlockingProducer", "Producer"]
