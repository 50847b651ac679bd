"""A topic got more partitions under a group with `start="latest"`, and records of the new ones were skipped.

A group starts at a topic once. What it has not read since then waits for it: on new partitions, after a crash
before the first ack, and while it has no member.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.base import Completion
from eventml.backends.kafka import settings as kafka_settings
from eventml.backends.kafka.commits import partitions_to_start
from eventml.records import Record
from tests.kafka.conftest import connected, grow, lag, new_topic, receive

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster

pytestmark = pytest.mark.anyio


def keyed(topic: str, count: int, start: int = 0) -> list[Record]:
    return [Record(topic, b"", b"%d" % n, f"id-{n}") for n in range(start, start + count)]


async def publish(cluster: KafkaCluster, records: list[Record]) -> None:
    """Publish over a new connection, which knows of new partitions."""
    async with connected(cluster) as backend:
        await backend.publish(records)


def ids(deliveries: list[Any]) -> set[str]:
    return {delivery.record.id for delivery in deliveries}


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_records_of_new_partitions_are_read_from_the_first_on(
    kafka_broker: KafkaCluster, delivery: str
) -> None:
    topic = await new_topic(kafka_broker, partitions=1)
    await publish(kafka_broker, keyed(topic, 5))
    async with connected(kafka_broker, delivery=delivery) as backend:
        async with backend.subscribe([topic], group="g", start="latest"):
            pass
        await grow(kafka_broker, topic, 3)
        new = keyed(topic, 40, start=5)
        await publish(kafka_broker, new)
        assert await lag(backend, topic, "g") == 40
        async with backend.subscribe([topic], group="g", start="latest") as member:
            found = await receive(member, 40)
            assert ids(found) == {record.id for record in new}
            assert {one.partition for one in found} == {0, 1, 2}
            await member.complete([Completion(one) for one in found])
            assert await member.lag() == 0


async def test_a_running_member_and_a_reader_find_new_partitions(
    kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_settings, "_METADATA_MAX_AGE", 200)
    topic = await new_topic(kafka_broker, partitions=1)
    await publish(kafka_broker, keyed(topic, 5))
    async with (
        connected(kafka_broker) as backend,
        backend.subscribe([topic], group="g", start="latest") as member,
        backend.subscribe([topic], group=None, start="latest") as reader,
    ):
        await publish(kafka_broker, before := keyed(topic, 5, start=5))
        assert ids(await receive(reader, 3)) < ids(before_deliveries := await receive(member, 5))
        assert len(before_deliveries) == len(before)
        await grow(kafka_broker, topic, 3)
        await publish(kafka_broker, new := keyed(topic, 40, start=10))
        expected = {record.id for record in new}
        assert ids(await receive(member, 40)) == expected
        assert expected < ids(await receive(reader, 42))  # after the last two of those before
        assert await member.lag() == 45


async def test_members_that_start_at_once_start_at_the_same_time(kafka_broker: KafkaCluster) -> None:
    """One of them commits where the group starts; to the other its partitions must not look new."""
    topic = await new_topic(kafka_broker, partitions=4)
    await publish(kafka_broker, keyed(topic, 40))
    async with connected(kafka_broker) as first, connected(kafka_broker) as second:
        one, other = (backend.subscribe([topic], group="g", start="latest") for backend in (first, second))
        members = await asyncio.gather(one.__aenter__(), other.__aenter__())
        try:
            await publish(kafka_broker, new := keyed(topic, 40, start=40))
            found: list[Any] = []

            async def read(member: Any) -> None:
                while True:
                    found.extend(await member.receive(100))

            async with anyio.create_task_group() as tasks:
                for member in members:
                    tasks.start_soon(read, member)
                with anyio.fail_after(30):
                    while len(ids(found)) < 40:
                        await anyio.sleep(0.05)
                tasks.cancel_scope.cancel()
            assert ids(found) == {record.id for record in new}
        finally:
            await asyncio.gather(one.__aexit__(None, None, None), other.__aexit__(None, None, None))


PARTITIONS = st.sets(st.tuples(st.sampled_from("ab"), st.integers(0, 4)))


@given(
    existing=PARTITIONS, committed=PARTITIONS, owners=st.lists(st.integers(0, 2), min_size=10, max_size=10)
)
def test_each_partition_without_an_offset_gets_one_start_from_one_member(
    existing: set[tuple[str, int]], committed: set[tuple[str, int]], owners: list[int]
) -> None:
    existing |= {(topic, 0) for topic, _ in existing}
    committed &= existing
    assigned: list[set[tuple[str, int]]] = [set(), set(), set()]
    for partition, owner in zip(sorted(existing), owners, strict=False):
        assigned[owner].add(partition)
    read = {topic for topic, _ in committed}
    new: list[tuple[str, int]] = []
    first: list[tuple[str, int]] = []
    for one in assigned:
        starts = partitions_to_start(one, existing, committed)
        new += starts[0]
        first += starts[1]
    assert sorted(new) == sorted(p for p in existing - committed if p[0] in read)
    assert sorted(first) == sorted(p for p in existing if p[0] not in read)
