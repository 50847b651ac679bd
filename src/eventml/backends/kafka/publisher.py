"""Publishing: one idempotent producer with acks=all, and a fresh one after any unknown outcome."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from eventml.backends.kafka.clients import stop, tear_down
from eventml.backends.kafka.faults import FOREIGN, ours
from eventml.backends.kafka.observer import not_found
from eventml.backends.kafka.sending import NONE_PINNED
from eventml.errors import PublishError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from aiokafka import AIOKafkaProducer

    from eventml.backends.kafka.clients import Clients
    from eventml.backends.kafka.sending import Sender
    from eventml.records import Record

log = logging.getLogger("eventml")

_BACKOFF = 0.2


class Publisher:
    """Writes records.

    Args:
        clients: Makes producers.
        sender: Packs and sends.
        timeout: How long a publish may take, in seconds.
    """

    def __init__(self, clients: Clients, sender: Sender, timeout: float) -> None:
        self._clients = clients
        self._sender = sender
        self._timeout = timeout
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()

    async def publish(
        self, records: Sequence[Record], *, whole: bool = False, pinned: Mapping[int, int] = NONE_PINNED
    ) -> None:
        """Write records; as `Backend.publish`.

        Args:
            records: What to write.
            whole: Where one of their topics is not there, write nothing at all.
            pinned: The partitions of some of them, by position.

        Raises:
            TopicNotFoundError: none of their topics is there, or (`whole`) not all.
            PublishError: some were refused.
            UnavailableError: not all were written in time; some may have been.
        """
        failed: dict[int, str] = {}
        positions: Sequence[int] = range(len(records))
        try:
            async with asyncio.timeout(self._timeout):
                while positions:
                    positions = await self._attempt(records, positions, failed, whole=whole, pinned=pinned)
        except TimeoutError as exc:
            # What is still queued must not go out behind the back of a caller who tries again.
            self._retire(self._producer, at_once=True)
            raise UnavailableError(
                f"the brokers at {self._clients.brokers} did not take the records within "
                f"{self._timeout:g} s (backend.publish_timeout); some may have been written"
            ) from exc
        if failed:
            raise PublishError(f"{len(failed)} records were refused: {next(iter(failed.values()))}", failed)

    async def close(self) -> None:
        """Send what is on its way, and disconnect."""
        self._retire(self._producer)
        if self._ending:
            await asyncio.wait(self._ending)

    async def _attempt(
        self,
        records: Sequence[Record],
        positions: Sequence[int],
        failed: dict[int, str],
        *,
        whole: bool,
        pinned: Mapping[int, int],
    ) -> list[int]:
        """Send records once. Returns the positions of those to be sent again."""
        producer = await self._ready()
        topics = {records[position].topic for position in positions}
        partitions = await self._sender.partitions(producer, topics)
        if len(partitions) < len(topics):
            error = not_found(topics - set(partitions))
            missing = {p: str(error) for p in positions if records[p].topic not in partitions}
            if whole or len(missing) == len(records):
                raise error
            failed |= missing
            positions = [position for position in positions if position not in failed]
        packer = self._sender.pack(producer, records, positions, partitions, pinned)
        failed |= packer.too_large
        try:
            again = await self._sender.send(producer, packer)
        except UnavailableError:
            self._retire(producer, at_once=True)
            raise
        except FOREIGN as exc:
            self._retire(producer, at_once=True)
            raise ours(exc, "publishing") from exc
        if again:
            self._retire(producer)
        return again

    def _retire(self, producer: AIOKafkaProducer | None, *, at_once: bool = False) -> None:
        """Let the next call make a fresh producer, and end this one meanwhile."""
        if producer is None or producer is not self._producer:
            return
        self._producer = None
        self._end(tear_down(producer) if at_once else stop(producer))

    def _end(self, ending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _ready(self) -> AIOKafkaProducer:
        async with self._starting:
            while self._producer is None:
                producer = self._clients.producer()
                try:
                    await self._clients.start(producer)
                except BaseException as exc:
                    self._end(tear_down(producer))
                    if not isinstance(exc, FOREIGN):
                        raise
                    error = ours(exc, f"connecting a producer to {self._clients.brokers}")
                    if not isinstance(error, UnavailableError):
                        raise error from exc
                    log.debug("%s; again in %g s", error, _BACKOFF)
                    await asyncio.sleep(_BACKOFF)
                else:
                    self._producer = producer
            return self._producer
