"""What topics are created with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource

from tests.kafka.conftest import new_topic

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

WEEK = 7 * 24 * 3600.0


@pytest.mark.parametrize(("retention", "segment"), [(60.0, 60.0), (4 * WEEK, WEEK)])
async def test_what_is_too_old_does_not_wait_for_the_rest_of_its_segment(
    kafka_broker: KafkaCluster, retention: float, segment: float
) -> None:
    topic = await new_topic(kafka_broker, retention=retention)

    def described() -> dict[str, str]:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        client = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})
        [found] = client.describe_configs([resource]).values()
        return {name: entry.value for name, entry in found.result(timeout=20).items()}

    said = await anyio.to_thread.run_sync(described)
    assert said["retention.ms"] == str(int(retention * 1000))
    assert said["segment.ms"] == str(int(segment * 1000))
