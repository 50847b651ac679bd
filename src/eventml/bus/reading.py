"""Reading a topic without a consumer group, from a start to an end: for replays, notebooks and tests."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import anyio

from eventml.backends.base import Backend, Start
from eventml.codec import Decoder
from eventml.errors import DecodeError, UnavailableError, UnsupportedError
from eventml.records import Delivery
from eventml.runtime import BrokerRetry
from eventml.times import StartOption, end_at, start_at

_LIMIT: Final = 500  # deliveries that are received and decoded at once


class ReadDelivery(Delivery, frozen=True, kw_only=True):
    """A delivery of `Bus.read`, with its event.

    Attributes:
        decoded: The event, or the DecodeError in its place.
    """

    decoded: Any

    @property
    def event(self) -> Any:
        """The event, of the type that the topic is declared with. Raises DecodeError if it has another."""
        if isinstance(self.decoded, DecodeError):
            raise self.decoded
        return self.decoded


async def read(  # noqa: D417 - a method of Bus
    self: Any,
    topic: str,
    *,
    start: StartOption = "earliest",
    until: datetime | timedelta | Literal["end"] | None = None,
) -> AsyncGenerator[ReadDelivery, None]:
    """Read a topic, without a consumer group: nothing is acknowledged, and the read leaves no trace.

        async for delivery in bus.read("rides.started", start=timedelta(hours=1), until="end"):
            print(delivery.timestamp, delivery.event)

    The records of a partition come in order; between partitions no order is promised. Times are compared with
    `Delivery.timestamp`: each partition is read from the first record at or after `start` to the first at or
    after `until`. An outage of the broker is waited for.

    Args:
        topic: Topic to read.
        start: "earliest", "latest", a datetime with its zone, or a timedelta: so long ago.
        until: "end", where the topic ends now; a datetime or a timedelta, as for `start`, which is waited for
            if it is in the future; or None to read on for ever.

    Raises:
        NotOpenError: The bus is not open.
        ValueError: A time has no zone, or `start` is in the future.
        UnsupportedError: The backend can neither start at a time nor tell where a topic ends.
        TopicNotFoundError: The topic does not exist, on a backend whose topics are created beforehand.
        BackendError: The broker refuses, or it cannot be reached when the read begins.
    """
    async with aclosing(read_batches(self, topic, start=start, until=until)) as batches:
        async for deliveries, events in batches:
            for d, event in zip(deliveries, events, strict=True):
                yield ReadDelivery(d.record, d.partition, d.offset, d.timestamp, d.attempt, decoded=event)


async def read_batches(
    bus: Any,
    topic: str,
    *,
    start: StartOption = "earliest",
    until: datetime | timedelta | Literal["end"] | None = None,
) -> AsyncGenerator[tuple[Sequence[Delivery], list[Any]], None]:
    """As `read`: some deliveries at a time, with their events, a DecodeError in the place of a bad one."""
    backend: Backend = bus.backend
    declared = bus.declared_topic(topic)
    decoder = Decoder(declared.event_type, strict=declared.strict)
    first, end = start_at(start), end_at(until)
    if not backend.capabilities.start_at_time and not (isinstance(first, str) and until is None):
        raise UnsupportedError(
            f"reading {topic!r}: this backend can neither start at a time nor tell where a topic ends. Read "
            "from 'earliest' or 'latest' without an end, and stop when you have enough"
        )
    subscribed = backend.subscribe([topic], group=None, start=first)
    async with subscribed as subscription, aclosing(_receive_until(topic, subscription, end)) as batches:
        async for deliveries in batches:
            yield deliveries, decoder.decode(deliveries)


async def _receive_until(
    topic: str, subscription: Any, end: Start
) -> AsyncGenerator[Sequence[Delivery], None]:
    """Deliveries of a subscription, which is `Bounded` if there is an end, up to the end."""
    attempts = BrokerRetry(f"bus.read({topic!r})", "receive")
    until, stopped = math.inf if isinstance(end, str) else end, False
    while True:
        deliveries: Sequence[Delivery] = ()
        try:
            if not stopped and (end == "latest" or until <= time.time()):
                await subscription.stop_at(end)
                stopped = True
            with anyio.move_on_after(math.inf if stopped else until - time.time()):
                deliveries = await subscription.receive(_LIMIT)
        except UnavailableError as exc:
            await attempts.wait(exc)
            continue
        attempts.succeeded()
        if stopped and not deliveries:
            return
        yield [delivery for delivery in deliveries if delivery.timestamp < until]
