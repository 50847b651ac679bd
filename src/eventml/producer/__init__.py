"""Producers: publish events and send requests, from coroutines and from blocking code.

Read `producer.py` first; it uses `coalescing.py` (concurrent publishes share one write) and `requests.py`
(requests and their replies). `blocking.py` is for blocking code. This package may import runtime, codec,
records and backends.base.
"""

from eventml.producer.blocking import BlockingProducer
from eventml.producer.producer import Producer

__all__ = ["BlockingProducer", "Producer"]
