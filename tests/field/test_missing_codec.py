"""A producer compresses its records with zstd, this process has no zstd, and its group rejoins for ever."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
import pytest
from aiokafka import codec
from confluent_kafka import Producer
from typer.testing import CliRunner

import eventml
from eventml.backends import kafka
from eventml.cli.app import app
from eventml.errors import MissingExtraError
from tests.kafka.conftest import connected, new_topic, records

if TYPE_CHECKING:
    from pathlib import Path

    from backends.kafka.cluster import KafkaCluster

pytestmark = pytest.mark.anyio

CODECS = ["snappy", "lz4", "zstd"]


def publish(cluster: KafkaCluster, topic: str, compression: str) -> None:
    """Publish 10 numbers, as a producer that is not ours."""
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "compression.type": compression})
    for number in range(10):
        producer.produce(topic, value=b"%d%s" % (number, b" " * 100))
    assert producer.flush(20) == 0


async def test_the_handler_ends_with_the_remedy(
    kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, bus = await new_topic(kafka_broker, 1), eventml.Bus("codecs")
    bus.consumer(topic, name="read", start="earliest")(read_nothing)
    publish(kafka_broker, topic, "zstd")
    monkeypatch.setattr(codec, "has_zstd", lambda: False)
    with anyio.fail_after(40), pytest.raises(MissingExtraError) as caught:
        async with connected(kafka_broker) as backend, bus.open(backend), bus.worker() as worker:
            await worker.run()
    assert f"receiving {topic} for group codecs.read" in str(caught.value)
    assert "zstd" in str(caught.value)
    assert str(caught.value).endswith("pip install 'eventml[kafka]'")


def read_nothing(numbers: list[int]) -> None:
    raise AssertionError(numbers)


@pytest.mark.parametrize("compression", CODECS)
async def test_the_extra_reads_and_writes_every_codec(kafka_broker: KafkaCluster, compression: str) -> None:
    topic = await new_topic(kafka_broker, 1)
    publish(kafka_broker, topic, compression)
    async with connected(kafka_broker, compression=compression) as backend:
        await backend.publish(records(topic, range(10)))
        async with backend.subscribe([topic], group=None, start="earliest") as reader:
            found: list[int] = []
            with anyio.fail_after(20):
                while len(found) < 20:
                    found += [int(delivery.record.value) for delivery in await reader.receive(100)]
    assert found == [*range(10), *range(10)]


@pytest.mark.parametrize("compression", CODECS)
def test_a_compression_that_cannot_work_is_refused_by_check(
    compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compressing.py").write_text(
        "import eventml\n"
        "bus = eventml.Bus('compressing')\n"
        "@bus.consumer('numbers')\n"
        "def read(numbers: list[int]) -> None: ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(codec, f"has_{compression}", lambda: False)
    url = f"kafka://127.0.0.1:1?compression={compression}"
    result = CliRunner().invoke(app, ["check", "compressing:bus", "--backend", url, "--json"])
    assert result.exit_code == 1
    [problem] = json.loads(result.stdout)["problems"]
    assert f"compression: {compression} needs the package cramjam" in problem
    assert problem.endswith("pip install 'eventml[kafka]'")
    with pytest.raises(ValueError, match=compression):
        kafka.Settings(compression=compression)  # type: ignore[arg-type] # one of its choices
