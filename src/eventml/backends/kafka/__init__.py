"""The Kafka backend: the log that scales past one machine. Needs the extra `kafka`.

What it promises: a publish that returned is on all in-sync replicas; every record is handled at least
once, because only the contiguous finished offset is committed; records of one key in order.
With `delivery=exactly_once` one input gives one output, to readers that read committed records.
What it does not: anything beyond the topics' own replication and retention.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from eventml.errors import ConfigError, MissingExtraError

try:
    from eventml.backends.kafka.backend import KafkaBackend, capabilities
    from eventml.backends.kafka.clients import Clients
    from eventml.backends.kafka.connecting import client_options, read_url
    from eventml.backends.kafka.observer import Observer
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "aiokafka":
        raise
    raise MissingExtraError("kafka", "kafka://") from exc

from eventml.backends.kafka.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Settings", "capabilities", "open"]


@asynccontextmanager
async def open(url: str, settings: Settings) -> AsyncIterator[KafkaBackend]:  # noqa: A001 - the seam's name for it
    """Connect to `kafka://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]`.

    Raises:
        UnavailableError: none of the brokers answers.
        ConfigError: the URL or a setting makes no sense, or the brokers refused the login.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError as exc:
        raise ConfigError("backend.url: kafka:// runs under asyncio, and under no other event loop") from exc
    clients = Clients(client_options(read_url(url), settings), settings)
    observer = Observer(clients, settings.publish_timeout)
    backend = KafkaBackend(clients, observer, settings)
    try:
        await observer.start()
        yield backend
    finally:
        with anyio.CancelScope(shield=True):
            await backend.close()
