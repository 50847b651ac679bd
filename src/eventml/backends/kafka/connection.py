"""Create and stop aiokafka's clients, and do what aiokafka has no public way for.

All uses of private members of aiokafka are in this file, in `fetching` and in `packing`, which is why
pyproject.toml bounds its version. Here: clients that never create a topic, clients that can be stopped while
no broker answers, and commits of partitions that other members have.
"""

# ruff: noqa: SLF001 - see above

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from aiokafka import AIOKafkaClient, AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.group import JoinGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import OffsetAndMetadata

from eventml.backends.kafka.errors import CLIENT_ERRORS
from eventml.backends.kafka.fetching import decode_batches
from eventml.backends.kafka.packing import RecordBatch
from eventml.backends.kafka.settings import Settings, client_options, milliseconds, read_url

log = logging.getLogger("eventml")

_FETCH = 1 << 20  # bytes of one partition in one fetch
_LEAST_FETCH = 1 << 16  # with many partitions: smaller fetches than this are slow
_GRACE = 5.0  # seconds that a client may take to stop in good order
_CANCELS = 20  # a task of aiokafka may need several: each ends the one wait that it is in


class ClientFactory:
    """Creates aiokafka's clients, all with the same connection options.

    Raises:
        ConfigError: the URL or the settings cannot be used.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self._options = client_options(read_url(url), settings)
        self._settings = settings
        self._request_timeout = milliseconds(settings.request_timeout)
        self.brokers = ", ".join(self._options["bootstrap_servers"])
        """Addresses of the brokers, for messages."""
        self._compression = None if settings.compression == "none" else settings.compression

    async def start(self, client: AIOKafkaProducer | AIOKafkaConsumer | AIOKafkaClient) -> None:
        """Start a client. May raise any error of aiokafka's, or wait for ever: set a deadline."""
        try:
            await (client.bootstrap() if isinstance(client, AIOKafkaClient) else client.start())
        except KafkaConnectionError as exc:
            # aiokafka logs the reason of each broker's failure, and raises only that all have failed.
            raise (await self._first_error() or exc) from exc

    def plain(self) -> AIOKafkaClient:
        """A client for requests, not started."""
        client = AIOKafkaClient(**self._options, request_timeout_ms=self._request_timeout)
        _never_create_topics(client)
        return client

    def producer(self, *, transactional_id: str | None = None) -> AIOKafkaProducer:
        """An idempotent producer with acks=all, not started; with an id, a transactional one."""
        settings = self._settings
        producer = AIOKafkaProducer(
            **self._options,
            request_timeout_ms=self._request_timeout,
            acks="all",
            enable_idempotence=True,
            max_batch_size=settings.max_request_size,
            max_request_size=settings.max_request_size,
            compression_type=self._compression,
            transactional_id=transactional_id,
        )
        _never_create_topics(producer.client)
        return producer

    def consumer(self, group: str | None, partitions: int, name: str | None = None) -> AIOKafkaConsumer:
        """A consumer that commits nothing by itself, not started. Without a group it joins none.

        With a name it is a static member: another one of this name takes its partitions without a rebalance.

        Its records are read by `fetch_deliveries`; header names that are not UTF-8 are escaped.
        What it fetches of up to so many partitions is bounded by `max_bytes`: aiokafka fetches the records of
        one partition while those of others wait to be read. A broker returns a larger record nevertheless.
        """
        settings = self._settings
        instance = (settings.group_instance_id or name) if group else None
        consumer = AIOKafkaConsumer(
            **self._options,
            group_id=group,
            group_instance_id=instance,
            # A broker responds to a request to join only when all members have given up their partitions.
            request_timeout_ms=max(self._request_timeout, milliseconds(settings.rebalance_timeout + 5)),
            session_timeout_ms=milliseconds(settings.session_timeout),
            heartbeat_interval_ms=milliseconds(settings.heartbeat_interval),
            rebalance_timeout_ms=milliseconds(settings.rebalance_timeout),
            max_poll_interval_ms=milliseconds(settings.max_poll_interval),
            fetch_max_bytes=settings.max_bytes,
            max_partition_fetch_bytes=max(min(settings.max_bytes // partitions, _FETCH), _LEAST_FETCH),
            enable_auto_commit=False,
            # `Member` sets where a group starts, and counts what was removed before the group had read it.
            auto_offset_reset="none" if group else "earliest",
            isolation_level="read_committed",
        )
        _never_create_topics(consumer._client)
        decode_batches(consumer)
        if instance is not None:
            _notice_leader(consumer, instance)
        return consumer

    async def _first_error(self) -> Exception | None:
        """Connect to the addresses one by one. Returns the error of the first that fails."""
        options = {
            k: v for k, v in self._options.items() if k not in {"bootstrap_servers", "metadata_max_age_ms"}
        }
        for host, port, _ in collect_hosts(self._options["bootstrap_servers"]):
            try:
                connection = await create_conn(
                    host, port, **options, request_timeout_ms=self._request_timeout
                )
            except CLIENT_ERRORS as exc:
                return exc
            connection.close()
        return None


def _never_create_topics(client: AIOKafkaClient) -> None:
    """Make a client ask for metadata without creating the topics that it asks for.

    aiokafka allows the brokers to create them, and has no option against it. It also asks the brokers that
    it knows for ever, though none answers; this one goes back to the addresses of the URL.
    """

    async def update(cluster: Any, topics: Collection[str] | None) -> bool:
        request = MetadataRequest(None if topics is None else list(topics), allow_auto_topic_creation=False)
        if await ask(cluster, request):
            return True
        try:
            await client.bootstrap()
        except CLIENT_ERRORS:
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

    client._metadata_update = update


def _notice_leader(consumer: AIOKafkaConsumer, instance: str) -> None:
    """Record whether a static member leads its group without knowing it; see `leads_unknowingly`.

    The broker's response to it names the leader that has died, whose id begins with the name of both. Only
    JoinGroup 9 (KIP-814) says who leads now, and aiokafka has no version after 5.
    """
    send = consumer._client.send
    consumer._leads_unknowingly = False

    async def sent(node: int, request: Any, **options: Any) -> Any:
        response = await send(node, request, **options)
        if isinstance(request, JoinGroupRequest):
            leader = response.leader_id
            of_this_name = leader.startswith(f"{instance}-")
            consumer._leads_unknowingly = of_this_name and leader != response.member_id
        return response

    consumer._client.send = sent


def leads_unknowingly(consumer: AIOKafkaConsumer) -> bool:
    """Whether the member has taken the place of its group's leader, and aiokafka takes it for a follower.

    Then no member looks for new partitions, which is the leader's task: call `watch_partitions`.
    """
    return getattr(consumer, "_leads_unknowingly", False)


def watch_partitions(consumer: AIOKafkaConsumer, counts: Mapping[str, int]) -> None:
    """Let the leader rebalance the group once topics have other numbers of partitions than these."""
    consumer._coordinator._group_subscription = set(counts)
    consumer._coordinator._metadata_snapshot = dict(counts)


async def stop(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Stop a client: a producer sends its batches first, a consumer leaves its group. Never raises.

    A client that has not stopped after 5 s is aborted.
    """
    stopping = asyncio.ensure_future(client.stop())
    await asyncio.wait([stopping], timeout=_GRACE)
    if stopping.done():
        _retrieve_exception(stopping)
    else:
        await abort(client)
        await _cancel(stopping)


async def leave(consumer: AIOKafkaConsumer, settings: Settings) -> None:
    """Stop a consumer and leave its group, unless the user has named the member. Never raises.

    aiokafka's static members do not leave: their partitions would wait until the session ends.
    """
    if settings.group_instance_id is None and (coordinator := consumer._coordinator) is not None:
        coordinator._group_instance_id = None
    await stop(consumer)


async def abort(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Stop a client at once: it sends nothing more, and its requests fail. Never raises."""
    client._closed = True  # or it warns, when it is deleted, that it was not closed
    if isinstance(client, AIOKafkaProducer):
        _retrieve_of_transaction(client._txn_manager)
        await _disconnect(client.client, [client._sender.sender_task])
        _fail_batches(client._message_accumulator)
        if client._txn_manager._transaction_waiter is not None and not client._txn_manager.is_fatal_error():
            # Or what waits for the end of the transaction would do so for ever.
            client._txn_manager.fatal_error(KafkaConnectionError("the client was aborted"))
        _retrieve_of_transaction(client._txn_manager)
        return
    coordinator, fetcher = client._coordinator, client._fetcher
    names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_reset_committed_task")
    tasks = [getattr(coordinator, name, None) for name in names] + [getattr(fetcher, "_fetch_task", None)]
    await _disconnect(client._client, [*tasks, *getattr(fetcher, "_pending_tasks", ())])


def _fail_batches(batches: Any) -> None:
    # A batch that waits for a retry is not among the pending ones, and yet removes itself from them
    # when it fails (aiokafka 0.14): a KeyError that nothing catches.
    for waiting in batches._batches.values():
        batches._pending_batches.update(waiting)
    batches._batches.clear()
    for batch in batches._pending_batches:
        # The publish that waited for it has reached its deadline.
        batch.future.add_done_callback(_retrieve_exception)
        batch._drain_waiter.add_done_callback(_retrieve_exception)
    batches.fail_all(KafkaConnectionError("the client was aborted"))


def _retrieve_of_transaction(transaction: Any) -> None:
    offsets = [future for _, _, future in transaction._pending_txn_offsets]
    for future in (transaction._transaction_waiter, *offsets):
        if future is not None:
            future.add_done_callback(_retrieve_exception)


async def _disconnect(client: AIOKafkaClient, tasks: Sequence[asyncio.Task[Any] | None]) -> None:
    """Close a client's connections for good, and end the tasks that would open others."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise KafkaConnectionError("the client was aborted")

    client._get_conn = refuse  # a closed client of aiokafka would connect again
    for task in tasks:
        if task is not None:
            await _cancel(task)
    with suppress(*CLIENT_ERRORS):
        await client.close()
    waited_for = client._md_update_fut  # the client's tasks may wait for metadata that never comes
    if waited_for is not None and not waited_for.done():
        waited_for.set_result(False)


async def _cancel(task: asyncio.Future[Any]) -> None:
    for _ in range(_CANCELS):
        if task.done():
            break
        task.cancel()
        await asyncio.wait([task], timeout=0.05)
    _retrieve_exception(task)


def _retrieve_exception(task: asyncio.Future[Any]) -> None:
    """Or asyncio logs that the exception was never retrieved."""
    if task.done() and not task.cancelled() and (exc := task.exception()) is not None:
        log.debug("a client of Kafka ended with %r", exc)


def batches_of(producer: AIOKafkaProducer) -> Callable[[Sequence[bytes]], RecordBatch]:
    """Makes the batches that a producer sends, of encoded records."""
    accumulator, transactions = producer._message_accumulator, producer._txn_manager
    transactional = transactions is not None and transactions.transactional_id is not None
    return partial(RecordBatch, compression=accumulator._compression_type, transactional=transactional)


async def commit_any(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    """Commit as `AIOKafkaConsumer.commit` does, also for partitions that other members of the group have."""
    found = {partition: OffsetAndMetadata(offset, "") for partition, offset in offsets.items()}
    await consumer._coordinator.commit_offsets(None, found)
