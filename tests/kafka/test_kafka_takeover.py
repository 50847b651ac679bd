"""A static member takes the place of one that died: without a rebalance, and nothing is missed."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventml.backends.base import Completion
from eventml.backends.kafka import settings as kafka_settings
from eventml.backends.kafka.connection import abort
from eventml.errors import UnavailableError
from tests.kafka.conftest import connected, everything, grow, new_topic, receive, records, until_finished

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from backends.kafka.cluster import KafkaCluster
    from tests.kafka.conftest import StartWorker

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

SESSION = 60.0  # seconds: no test waits for its end


@asynccontextmanager
async def named(cluster: KafkaCluster, name: str, topic: str, group: str) -> AsyncIterator[Any]:
    """A member of this name, in a connection of its own."""
    async with connected(cluster, session_timeout=SESSION) as backend:
        backend.name_members(name)
        async with backend.subscribe([topic], group=group, start="earliest") as member:
            yield member


async def die(member: Any) -> None:
    """End as the process would that is killed: nothing more is sent, and the group is not left."""
    await abort(member._member._consumer)


def partitions(*members: Any) -> int:
    """How many they read; none while a rebalance is under way."""
    assignments = [member._member.assignment for member in members]
    return sum(len(one.states) for one in assignments if one.active)


async def until_read(wanted: int, *members: Any) -> None:
    async with asyncio.timeout(20):
        while partitions(*members) != wanted:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("grows", ["after", "before"])
async def test_what_replaces_the_leader_of_a_group_finds_new_partitions(
    kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch, grows: str
) -> None:
    """A group's leader notices them. The broker does not tell a member that it has become one in this way."""
    monkeypatch.setattr(kafka_settings, "_METADATA_MAX_AGE", 200)
    topic, group = await new_topic(kafka_broker, partitions=2), token_hex(4)
    async with AsyncExitStack() as stack:
        leader = await stack.enter_async_context(named(kafka_broker, "one", topic, group))
        follower = await stack.enter_async_context(named(kafka_broker, "two", topic, group))
        await until_read(2, leader, follower)
        await until_read(1, follower)
        before = follower._member.assignment.version
        await die(leader)
        if grows == "before":
            await grow(kafka_broker, topic, 6)
        successor = await stack.enter_async_context(named(kafka_broker, "one", topic, group))
        if grows == "after":
            await asyncio.sleep(1.0)
            assert partitions(successor) == partitions(follower) == 1
            assert follower._member.assignment.version == before, "the death has caused a rebalance"
            await grow(kafka_broker, topic, 6)
        await until_read(6, successor, follower)
        async with connected(kafka_broker) as backend:
            await backend.publish(records(topic, range(60)))
        found = 0
        async with asyncio.timeout(20):
            while found < 60:
                for member in (successor, follower):
                    taken = await member.receive(100)
                    await member.complete([Completion(one) for one in taken])
                    found += len(taken)


async def test_the_next_process_may_read_other_topics_in_the_group(
    kafka_broker: KafkaCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """The app was changed while it ran: what replaces a dead worker has other handlers of the same group."""
    topic, other, group = await new_topic(kafka_broker), await new_topic(kafka_broker), token_hex(4)
    async with AsyncExitStack() as stack:
        member = await stack.enter_async_context(named(kafka_broker, "one", topic, group))
        await die(member)
        caplog.clear()
        async with asyncio.timeout(20):
            successor = await stack.enter_async_context(named(kafka_broker, "one", other, group))
        assert "joining again" not in caplog.text
        async with connected(kafka_broker) as backend:
            await backend.publish(records(other, range(20)))
        assert {one.record.topic for one in await receive(successor, 20)} == {other}


async def test_a_process_whose_member_was_replaced_before_dies(kafka_broker: KafkaCluster) -> None:
    """A member that fails is replaced in its process. The next process takes the place of the last one."""
    topic, group = await new_topic(kafka_broker, partitions=2), token_hex(4)
    async with AsyncExitStack() as stack:
        member = await stack.enter_async_context(named(kafka_broker, "one", topic, group))
        other = await stack.enter_async_context(named(kafka_broker, "two", topic, group))
        async with connected(kafka_broker) as backend:
            await backend.publish(records(topic, range(40)))
        await until_read(1, member)
        for _ in range(2):
            member._member.fail(UnavailableError("on purpose"))
            with pytest.raises(UnavailableError, match="on purpose"):
                await member.receive(1)
            await receive(member, 1)
        await until_read(1, other)
        before = other._member.assignment.version
        await die(member)
        successor = await stack.enter_async_context(named(kafka_broker, "one", topic, group))
        assert await receive(successor, 1)
        assert other._member.assignment.version == before, "the death has caused a rebalance"


async def test_one_output_for_one_input_if_each_process_dies_in_a_transaction(
    kafka_broker: KafkaCluster, start_worker: StartWorker
) -> None:
    """No rebalance comes between: the next process ends the transactions before it asks for the offsets."""
    topic, to, group = await new_topic(kafka_broker, 2), await new_topic(kafka_broker, 2), token_hex(4)
    settings = {"delivery": "exactly_once", "session_timeout": SESSION}
    common = {"topic": topic, "to": to, "group": group, "settings": settings, "limit": 20}
    async with connected(kafka_broker, **settings) as backend:
        await backend.publish(records(topic, range(2_000)))
        async with named(kafka_broker, "stays", topic, group):  # it completes nothing
            for _ in range(3):
                dying = start_worker(kafka_broker, **common, name="one", die=0.5)
                assert await anyio.to_thread.run_sync(dying.wait, 60) == -signal.SIGKILL
            start_worker(kafka_broker, **common, name="one")
            await asyncio.sleep(1)
        await until_finished(backend, topic, group)
        made = Counter(one.record.id for one in await everything(backend, to, 2_000))
    assert set(made) == {f"id-{n}/made" for n in range(2_000)}
    assert set(made.values()) == {1}


async def test_a_worker_may_have_any_name_and_topics_any_length(kafka_broker: KafkaCluster) -> None:
    """Kafka's own clients take 249 letters, digits, dots and dashes for the name of a static member."""
    topic = await new_topic(kafka_broker, name=f"t{token_hex(4)}{'x' * 230}")
    name = f"prédiction der Dauer {'y' * 240}-{token_hex(8)}"
    async with named(kafka_broker, name, topic, topic[:9]) as member, connected(kafka_broker) as backend:
        await backend.publish(records(topic, range(3)))
        assert len(await receive(member, 3)) == 3
