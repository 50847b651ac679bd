"""Writing to a bus, and asking over it: from coroutines, and from blocking code."""

from eventml.producer.blocking import BlockingProducer
from eventml.producer.producer import KeyOf, Producer, producing

__all__ = ["BlockingProducer", "KeyOf", "Producer", "producing"]
