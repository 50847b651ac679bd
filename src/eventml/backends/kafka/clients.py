"""Making aiokafka's clients, all to the same pattern, and doing away with them.

What aiokafka 0.14 has no public way for is done here, once: keeping it from creating topics, and
ending a client that no broker answers any more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaClient, AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from eventml.backends.kafka.connecting import milliseconds
from eventml.backends.kafka.faults import FOREIGN
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from eventml.backends.kafka.settings import Settings

log = logging.getLogger("eventml")

_GRACE = 5.0  # seconds for a client to take its leave in good order
_CANCELS = 20  # a task of aiokafka may need several: each ends the one wait that it hangs in


class Clients:
    """Makes aiokafka's clients.

    Args:
        options: What all of them share, from `client_options`.
        settings: The backend's.
    """

    def __init__(self, options: dict[str, Any], settings: Settings) -> None:
        self._options = options
        self._settings = settings
        self._request_timeout = milliseconds(settings.request_timeout)

    @property
    def brokers(self) -> str:
        """Where they connect to, for a message."""
        return ", ".join(self._options["bootstrap_servers"])

    def plain(self) -> AIOKafkaClient:
        """A client that asks questions, not started."""
        client = AIOKafkaClient(**self._options, request_timeout_ms=self._request_timeout)
        never_create_topics(client)
        return client

    async def start(self, client: AIOKafkaProducer | AIOKafkaConsumer | AIOKafkaClient) -> None:
        """Start a client. It may fail with anything of aiokafka's, or wait for ever."""
        try:
            await (client.bootstrap() if isinstance(client, AIOKafkaClient) else client.start())
        except KafkaConnectionError as exc:
            # It tells its log what went wrong with each broker, and its caller that all did.
            raise (await self._first_error() or exc) from exc

    def producer(self, *, transactional_id: str | None = None) -> AIOKafkaProducer:
        """An idempotent producer with acks=all, not started; with an id, a transactional one."""
        settings = self._settings
        try:
            producer = AIOKafkaProducer(
                **self._options,
                request_timeout_ms=self._request_timeout,
                acks="all",
                enable_idempotence=True,
                max_batch_size=settings.max_request_size,
                max_request_size=settings.max_request_size,
                compression_type=None if settings.compression == "none" else settings.compression,
                transactional_id=transactional_id,
                transaction_timeout_ms=milliseconds(settings.transaction_timeout),
            )
        except RuntimeError as exc:
            raise ConfigError(
                f"backend.compression: {settings.compression} is not installed: "
                f"pip install 'aiokafka[{settings.compression}]'"
            ) from exc
        never_create_topics(producer.client)
        return producer

    def consumer(self, group: str | None) -> AIOKafkaConsumer:
        """A consumer that commits nothing by itself, not started; without a group, a reader."""
        settings = self._settings
        consumer = AIOKafkaConsumer(
            **self._options,
            group_id=group,
            group_instance_id=settings.group_instance_id if group else None,
            # A broker answers a request to join only when the whole group has let go.
            request_timeout_ms=max(self._request_timeout, milliseconds(settings.rebalance_timeout + 5)),
            session_timeout_ms=milliseconds(settings.session_timeout),
            heartbeat_interval_ms=milliseconds(settings.heartbeat_interval),
            rebalance_timeout_ms=milliseconds(settings.rebalance_timeout),
            max_poll_interval_ms=milliseconds(settings.max_poll_interval),
            max_partition_fetch_bytes=settings.fetch_bytes,
            fetch_max_wait_ms=milliseconds(settings.fetch_wait),
            enable_auto_commit=False,
            # Only for a position that retention has overtaken: where a group begins is decided by us.
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        never_create_topics(consumer._client)  # noqa: SLF001 - it shows its client to nobody
        return consumer

    async def _first_error(self) -> Exception | None:
        """Try the addresses one by one. Returns what the first one that fails fails with."""
        options = {
            k: v for k, v in self._options.items() if k not in {"bootstrap_servers", "metadata_max_age_ms"}
        }
        for host, port, _ in collect_hosts(self._options["bootstrap_servers"]):
            try:
                connection = await create_conn(
                    host, port, **options, request_timeout_ms=self._request_timeout
                )
            except FOREIGN as exc:
                return exc
            connection.close()
        return None


def never_create_topics(client: AIOKafkaClient) -> None:
    """Make a client ask for metadata without creating what it asks for.

    aiokafka allows brokers to create the topic, and has no option to forbid it. And when none of the
    brokers that it knows answers it asks those for ever; this one turns to its first addresses again.
    """

    async def update(cluster: Any, topics: Collection[str] | None) -> bool:
        request = MetadataRequest(None if topics is None else list(topics), allow_auto_topic_creation=False)
        if await ask(cluster, request):
            return True
        try:
            await client.bootstrap()
        except FOREIGN:
            return False
        return await ask(cluster, request)

    async def ask(cluster: Any, request: MetadataRequest) -> bool:
        nodes = [broker.nodeId for broker in client.cluster.brokers()]
        for node in random.sample(nodes, len(nodes)):
            try:
                metadata = await client.send(node, request)
            except KafkaError as exc:
                log.debug("no metadata from Kafka's node %s: %s", node, exc)
                continue
            if metadata.brokers:
                cluster.update_metadata(metadata)
                return True
        return False

    client._metadata_update = update  # noqa: SLF001 - see above


async def stop(client: AIOKafkaProducer | AIOKafkaConsumer, grace: float = _GRACE) -> None:
    """End a client: a producer's batches are sent first, a consumer leaves its group. Never raises.

    One that does not manage within `grace` seconds is torn down.
    """
    stopping = asyncio.ensure_future(client.stop())
    await asyncio.wait([stopping], timeout=grace)
    if stopping.done():
        _observe(stopping)
        return
    await tear_down(client)
    await _cancel(stopping)


async def tear_down(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """End a client at once: nothing more is sent, what was under way fails. Never raises."""
    client._closed = True  # noqa: SLF001 - or it complains at its end that nobody closed it
    if isinstance(client, AIOKafkaProducer):
        sender = client._sender.sender_task  # noqa: SLF001 - its public way waits for every batch
        await _close(client.client, [sender])
        _fail_all(client._message_accumulator)  # noqa: SLF001 - the same
        return
    coordinator, fetcher = client._coordinator, client._fetcher  # noqa: SLF001 - no public way
    names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_reset_committed_task")
    tasks = [getattr(coordinator, name, None) for name in names] + [getattr(fetcher, "_fetch_task", None)]
    await _close(client._client, [*tasks, *getattr(fetcher, "_pending_tasks", ())])  # noqa: SLF001 - as in `consumer`


def _fail_all(batches: Any) -> None:
    # One that waits to be sent again is not among the pending any more, and yet takes itself out of
    # them when it fails (aiokafka 0.14), which ends in a KeyError that nobody catches.
    for waiting in batches._batches.values():  # noqa: SLF001 - no public way
        batches._pending_batches.update(waiting)  # noqa: SLF001 - the same
    batches._batches.clear()  # noqa: SLF001 - the same
    for batch in batches._pending_batches:  # noqa: SLF001 - the same
        # Whoever waited for it has given up at the deadline.
        batch.future.add_done_callback(_seen)
        batch._drain_waiter.add_done_callback(_seen)  # noqa: SLF001 - the same
    batches.fail_all(KafkaConnectionError("torn down"))


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def _close(client: AIOKafkaClient, tasks: Sequence[asyncio.Task[Any] | None]) -> None:
    """Cut a client's connections for good, and end the tasks that would make others."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise KafkaConnectionError("torn down")

    client._get_conn = refuse  # noqa: SLF001 - a closed client of aiokafka would connect again
    for task in tasks:
        if task is not None:
            await _cancel(task)
    with suppress(*FOREIGN):
        await client.close()
    interactive = client._md_update_fut  # noqa: SLF001 - its tasks may wait for news that nobody brings now
    if interactive is not None and not interactive.done():
        interactive.set_result(False)


async def _cancel(task: asyncio.Future[Any]) -> None:
    for _ in range(_CANCELS):
        if task.done():
            break
        task.cancel()
        await asyncio.wait([task], timeout=0.05)
    _observe(task)


def _observe(task: asyncio.Future[Any]) -> None:
    """Look at what a task ended with, or asyncio complains that nobody did."""
    if task.done() and not task.cancelled() and (exc := task.exception()) is not None:
        log.debug("a client of Kafka ended with %r", exc)
