"""Clients without eventml, in both directions: kcat, which is librdkafka."""

from __future__ import annotations

import asyncio
import json
import subprocess
from secrets import token_hex
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
import pytest

import eventml
from eventml.backends.kafka.wire import key_hash
from eventml.records import Record, foreign_id
from tests.brokers import program
from tests.kafka.conftest import connected, everything, new_topic

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster


pytestmark = [
    pytest.mark.anyio,
    pytest.mark.kafka,
]

HEADERS: Final = {
    "ce_specversion": "1.0",
    "ce_type": "rides.started",
    "ce_source": "rides",
    "content-type": "application/json",
}


def kcat(cluster: KafkaCluster, *arguments: str, stdin: str = "") -> str:
    argv = [program("kcat", package="kcat"), "-q", "-b", cluster.bootstrap, *arguments]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603 - found on PATH
    return done.stdout


async def test_a_record_without_headers_is_accepted(kafka_broker: KafkaCluster) -> None:
    topic = await new_topic(kafka_broker)
    kcat(kafka_broker, "-P", "-t", topic, "-K", "\t", stdin='key-1\t{"ride_id": "r1"}\n')
    kcat(kafka_broker, "-P", "-t", topic, stdin='{"ride_id": "r2"}\n')
    async with connected(kafka_broker) as backend:
        found = {d.record.value: d for d in await everything(backend, topic, 2)}
    for value, key in [(b'{"ride_id": "r1"}', b"key-1"), (b'{"ride_id": "r2"}', None)]:
        delivery = found[value]
        generated_id = foreign_id(topic, delivery.partition, delivery.offset)
        assert delivery.record == Record(topic, value, key, generated_id)


async def test_foreign_headers_are_kept_and_the_id_is_found_at_any_position(
    kafka_broker: KafkaCluster,
) -> None:
    topic = await new_topic(kafka_broker, 1)
    kcat(kafka_broker, "-P", "-t", topic, "-H", "ce_id=foreign", "-H", "note=x", "-H", "empty=", stdin="1")
    kcat(kafka_broker, "-P", "-t", topic, "-H", "note=x", "-H", "note=y", stdin="2")
    async with connected(kafka_broker) as backend:
        first, second = await everything(backend, topic, 2)
    assert (first.record.id, first.record.headers) == ("foreign", {"note": "x", "empty": ""})
    assert second.record.headers == {"note": "y"}


async def test_a_foreign_client_reads_cloudevents_headers_and_a_plain_value(
    kafka_broker: KafkaCluster,
) -> None:
    topic = await new_topic(kafka_broker)
    async with connected(kafka_broker) as backend:
        await backend.publish([Record(topic, b'{"minutes": 7.5}', b"key-1", "r1/duration", HEADERS)])
    [line] = kcat(kafka_broker, "-C", "-t", topic, "-o", "beginning", "-e", "-J").splitlines()
    message = json.loads(line)
    assert (message["key"], message["payload"]) == ("key-1", '{"minutes": 7.5}')
    pairs = zip(message["headers"][::2], message["headers"][1::2], strict=True)
    assert dict(pairs) == {**HEADERS, "ce_id": "r1/duration"}


async def test_a_foreign_client_sends_a_key_to_the_same_partition(kafka_broker: KafkaCluster) -> None:
    topic = await new_topic(kafka_broker, 7)
    keys = [token_hex(length) for length in range(1, 30)]
    message = "".join(f"{key}\t{key}\n" for key in keys)
    kcat(kafka_broker, "-P", "-t", topic, "-K", "\t", "-X", "partitioner=murmur2_random", stdin=message)
    async with connected(kafka_broker) as backend:
        await backend.publish([Record(topic, key.encode(), key.encode()) for key in keys])
        found = await everything(backend, topic, 2 * len(keys))
    assert len(found) == 2 * len(keys)
    for delivery in found:
        assert delivery.partition == key_hash(delivery.record.value) % 7


class RideStarted(msgspec.Struct):
    ride_id: str


class Predicted(msgspec.Struct):
    ride_id: str
    minutes: float


async def test_a_predictor_answers_kcat_and_malformed_bytes_become_dead_letters(
    kafka_broker: KafkaCluster,
) -> None:
    topic, to = await new_topic(kafka_broker), await new_topic(kafka_broker)
    group = token_hex(4)
    dead_letters = await new_topic(kafka_broker, name=f"{topic}.{group}.dlq")
    bus = eventml.Bus("rides")

    @bus.predictor(topic, to=to, group=group)
    def duration(rides: list[RideStarted]) -> list[Predicted]:
        return [Predicted(ride.ride_id, 7.5) for ride in rides]

    lines = ['{"ride_id": "r1"}', "{malformed", '{"ride_id": 5}', '{"ride_id": "r2"}']
    kcat(kafka_broker, "-P", "-t", topic, stdin="\n".join(lines))
    async with connected(kafka_broker) as backend:
        async with bus.open(backend), bus.worker() as worker, anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            with anyio.fail_after(30):
                await worker.ready.wait()
                while worker.stats["duration"].completed < len(lines):
                    await asyncio.sleep(0.02)
            worker.stop()
        dead = {d.record.value for d in await everything(backend, dead_letters, 2)}
    answers = kcat(kafka_broker, "-C", "-t", to, "-o", "beginning", "-e").splitlines()
    assert sorted(answers) == ['{"ride_id":"r1","minutes":7.5}', '{"ride_id":"r2","minutes":7.5}']
    assert dead == {b"{malformed", b'{"ride_id": 5}'}
