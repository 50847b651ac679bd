"""The contract suite on a real Kafka broker, at least once and exactly once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from eventml.backends import kafka
from eventml.backends.kafka.connection import abort
from eventml.records import Record
from eventml.testing import contract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from backends.kafka.cluster import KafkaCluster
    from eventml.backends.base import Backend
    from eventml.backends.kafka import KafkaBackend

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

SETTINGS: Final = kafka.Settings(
    session_timeout=6.0,  # the least that a broker allows by default
    heartbeat_interval=0.25,
    rebalance_timeout=8.0,
    drain=1.0,
    commit_interval=0.05,
    max_bytes=100_000,
)


@pytest.fixture(params=["at_least_once", "exactly_once"])
def harness(kafka_broker: KafkaCluster, request: pytest.FixtureRequest) -> contract.Harness:
    settings = msgspec.structs.replace(SETTINGS, delivery=request.param)

    @asynccontextmanager
    async def connect() -> AsyncIterator[Backend]:
        async with kafka.open(kafka_broker.url, settings) as backend:
            yield Settled(backend)

    return contract.Harness(
        connect=connect,
        declared=kafka.capabilities(settings),
        kill=kill,
        refused=lambda topic: Record(topic, bytes(2 * settings.max_request_size), b"key", "too large"),
        patience=30.0,
        quiet=0.5,
    )


class Settled:
    """A backend that answers `lag` after the next commit, which is made in the background."""

    def __init__(self, backend: KafkaBackend) -> None:
        self.backend = backend
        self.capabilities = backend.capabilities
        self.publish = backend.publish
        self.subscribe = backend.subscribe
        self.create_topics = backend.create_topics
        self.name_members = backend.name_members
        self.missing_topics = backend.missing_topics

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        await asyncio.sleep(3 * SETTINGS.commit_interval)
        return await self.backend.lag(topic, group=group)


async def kill(connection: Any) -> None:
    """Cut every connection of a backend, as the death of its process would.

    What it completed is committed by then: the suite assumes that it is not delivered again.
    """
    await asyncio.sleep(3 * SETTINGS.commit_interval)
    for subscription in connection.backend._subscriptions:
        await abort(subscription._member._consumer)


@pytest.mark.parametrize("case", contract.CASES, ids=str)
async def test_kafka_keeps_the_contract(case: contract.Case, harness: contract.Harness) -> None:
    await contract.check(case, harness)
