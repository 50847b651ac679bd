"""A real Kafka, brought up by the scripts: what it keeps when nodes go away."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError

from backends.kafka import cluster, probe
from backends.kafka.quick import quick_options
from backends.process import StartError
from tests.limits import started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from backends.kafka.cluster import KafkaCluster
    from tests.brokers import StartKafka

pytestmark = [pytest.mark.slow, pytest.mark.anyio]
START = Path(cluster.__file__).with_name("start.py")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def create_topic(kafka: KafkaCluster, topic: str, *, partitions: int = 2) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        made = await admin.create_topics([NewTopic(topic, partitions, len(kafka.nodes))])
    finally:
        await admin.close()
    assert [error[1] for error in made.topic_errors] == [0]


@asynccontextmanager
async def producer(kafka: KafkaCluster, **options: object) -> AsyncIterator[aiokafka.AIOKafkaProducer]:
    safe = {"acks": "all", "enable_idempotence": True, "bootstrap_servers": kafka.bootstrap}
    async with aiokafka.AIOKafkaProducer(**safe, **options) as connected:
        yield connected


async def publish(kafka: KafkaCluster, topic: str, values: Iterable[int]) -> None:
    async with producer(kafka) as connected:
        for value in values:
            await connected.send_and_wait(topic, b"%d" % value)


async def read(kafka: KafkaCluster, topic: str, *, group: str, count: int) -> list[int]:
    """What is committed there, until there is nothing more for a second after `count`."""
    options = {"auto_offset_reset": "earliest", "isolation_level": "read_committed"}
    async with aiokafka.AIOKafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap, group_id=group, **options
    ) as consumer:
        found: list[int] = []
        while True:
            batches = await consumer.getmany(timeout_ms=1_000)
            found += [int(record.value) for batch in batches.values() for record in batch]
            if len(found) >= count and not batches:
                return sorted(found)


class TestOneNode:
    async def test_what_is_published_is_read(self, kafka_broker: KafkaCluster) -> None:
        await create_topic(kafka_broker, "one.read")
        await publish(kafka_broker, "one.read", range(100))
        assert await read(kafka_broker, "one.read", group="g", count=100) == [*range(100)]

    async def test_transactions_work(self, kafka_broker: KafkaCluster) -> None:
        await create_topic(kafka_broker, "one.transactions")
        async with producer(kafka_broker, transactional_id="t") as connected:
            await connected.begin_transaction()
            await connected.send_and_wait("one.transactions", b"0")
            await connected.abort_transaction()
            async with connected.transaction():
                await connected.send_and_wait("one.transactions", b"1")
        assert await read(kafka_broker, "one.transactions", group="g", count=1) == [1]

    async def test_a_missing_topic_is_not_created(self, kafka_broker: KafkaCluster) -> None:
        async with producer(kafka_broker, request_timeout_ms=1_000) as connected:
            with pytest.raises(UnknownTopicOrPartitionError):
                await connected.send_and_wait("one.missing", b"0")
        known = probe.ask(int(kafka_broker.bootstrap.rpartition(":")[2]))
        assert "one.missing" not in {partition.topic for partition in known.partitions}

    async def test_a_killed_node_leaves_what_it_acknowledged(
        self, tmp_path: Path, start_kafka: StartKafka
    ) -> None:
        folder = tmp_path / "ein Ördner"
        killed = start_kafka(directory=folder)
        await create_topic(killed, "kept")
        await publish(killed, "kept", range(10))
        killed.kill()
        other_ports = start_kafka(directory=folder)
        assert other_ports.url != killed.url
        assert await read(other_ports, "kept", group="g", count=10) == [*range(10)]

    def test_a_wrong_setting_is_shown_with_the_reason_and_leaves_nothing(
        self, kafka_broker: KafkaCluster
    ) -> None:
        broken = cluster.KafkaCluster(
            version=kafka_broker.version, quick=True, settings={"num.io.threads": "many"}
        )
        with pytest.raises(StartError, match=r"num\.io\.threads"), broken:
            pass
        assert not broken.directory.exists()
        assert not any(node.running for node in broken.nodes)

    def test_a_quick_node_starts_from_the_archive_of_classes(self, kafka_broker: KafkaCluster) -> None:
        options = quick_options(kafka_broker.version)
        archives = [one.partition("=")[2] for one in options if one.startswith("-XX:SharedArchiveFile=")]
        if not archives or not sys.platform.startswith("linux"):
            pytest.skip("this Java made no archive, or there is no /proc to see it in")
        mapped = Path(f"/proc/{kafka_broker.nodes[0].process.pid}/maps").read_text()
        assert archives[0] in mapped

    def test_start_prints_the_url_and_stops_when_told(
        self, tmp_path: Path, kafka_broker: KafkaCluster
    ) -> None:
        del kafka_broker  # that there is a Kafka to run
        command = [sys.executable, str(START), "--quick", "--port", "0", "--dir", str(tmp_path)]
        with started(command, stdout=subprocess.PIPE, text=True) as script:
            assert script.stdout
            port = int(script.stdout.readline().rpartition(":")[2])
            assert probe.ask(port).nodes == {1: port}
            script.terminate()
            assert script.wait(30.0) == 0
        with pytest.raises(OSError, match="refused"):
            probe.ask(port)


class TestThreeNodes:
    async def test_every_record_and_offset_is_kept_three_times(self, kafka_cluster: KafkaCluster) -> None:
        await create_topic(kafka_cluster, "three.copies")
        await publish(kafka_cluster, "three.copies", range(10))
        assert await read(kafka_cluster, "three.copies", group="g", count=10) == [*range(10)]
        for node in kafka_cluster.nodes:
            known = probe.ask(node.address.port).partitions
            copies = {p.topic: p.replicas for p in known if p.topic in {"three.copies", "__consumer_offsets"}}
            assert copies == dict.fromkeys(["three.copies", "__consumer_offsets"], frozenset({1, 2, 3}))

    async def test_a_rolling_restart_loses_nothing(self, kafka_cluster: KafkaCluster) -> None:
        """Two of the nodes: the second one may stop because the first is in sync again."""
        await create_topic(kafka_cluster, "three.rolling")
        for turn, node in enumerate(kafka_cluster.nodes[:2]):
            node.stop()
            await publish(kafka_cluster, "three.rolling", range(turn * 10, turn * 10 + 10))
            node.start()
            kafka_cluster.wait_until_in_sync()
        assert await read(kafka_cluster, "three.rolling", group="g", count=20) == [*range(20)]

    async def test_a_killed_node_costs_nothing(self, kafka_cluster: KafkaCluster) -> None:
        await create_topic(kafka_cluster, "three.killed", partitions=6)
        node = kafka_cluster.nodes[0]
        node.process.send(signal.SIGKILL)
        node.process.wait(grace=20.0)
        assert not node.running
        await publish(kafka_cluster, "three.killed", range(60))
        assert await read(kafka_cluster, "three.killed", group="g", count=60) == [*range(60)]

    def test_all_are_up_when_the_next_test_begins(self, kafka_cluster: KafkaCluster) -> None:
        views = [set(probe.ask(node.address.port).nodes) for node in kafka_cluster.nodes]
        assert views == [{1, 2, 3}] * 3
