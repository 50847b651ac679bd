"""The trace context passes real brokers, and other clients can read and continue it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.trace import format_trace_id

from tests.failures.scenario import Duration, Ride, Scenario, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.kafka.cluster import KafkaCluster
    from backends.redis.server import RedisServer
    from tests.tracing.conftest import RecordedSpans

pytestmark = pytest.mark.anyio

FOREIGN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def call(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - the programs that the test found
    return done.stdout


def prepared(url: str) -> Scenario:
    scenario = Scenario(url)

    @scenario.bus.predictor(scenario.topic, to=scenario.to)
    def duration(rides: list[Ride]) -> list[Duration]:
        return [Duration(ride.ride_id, ride.miles) for ride in rides]

    return scenario


async def predicted(scenario: Scenario, publish_foreign: Callable[[], object]) -> str:
    """Publish one event with the bus and one with another client, and return the trace id of the first."""
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            async with scenario.working(backend) as worker:
                with trace.get_tracer("test").start_as_current_span("caller") as caller:
                    await scenario.bus.publish(scenario.topic, Ride(1, 1.0), id="own")
                await anyio.to_thread.run_sync(publish_foreign)
                await until(lambda: worker.stats["duration"].completed == 2)
            await scenario.collect(backend, 2)
    return format_trace_id(caller.get_span_context().trace_id)


def check(spans: RecordedSpans, scenario: Scenario, own: str, system: str) -> None:
    traces = {record.headers["ce_traceparent"].split("-")[1] for [record] in scenario.outputs.values()}
    assert traces == {own, FOREIGN.split("-")[1]}
    found = spans.named(f"process {scenario.topic}")
    assert {(span.attributes or {})["messaging.system"] for span in found} == {system}
    assert {format_trace_id(link.context.trace_id) for span in found for link in span.links} == traces


async def test_through_redis(
    spans: RecordedSpans, redis_server: RedisServer, foreign_client: Callable[[str], str]
) -> None:
    scenario = prepared(redis_server.url)
    cli = [foreign_client("redis-cli"), "-u", redis_server.url]
    meta = json.dumps({"traceparent": FOREIGN})
    ride = '{"ride_id": 2, "miles": 2}'
    add = [*cli, "XADD", scenario.topic, "*", "data", ride, "id", "foreign", "meta", meta]
    own = await predicted(scenario, lambda: call(*add))
    check(spans, scenario, own, "redis")
    assert f'"traceparent":"00-{own}-' in call(*cli, "XRANGE", scenario.to, "-", "+").replace('\\"', '"')


async def test_through_kafka(
    spans: RecordedSpans, kafka_broker: KafkaCluster, foreign_client: Callable[[str], str]
) -> None:
    scenario = prepared(kafka_broker.url)
    kcat = [foreign_client("kcat"), "-b", kafka_broker.bootstrap, "-q"]
    headers = [
        "-H",
        f"traceparent={FOREIGN}",
        "-H",
        "ce_id=foreign",
    ]  # as agents of OpenTelemetry do
    own = await predicted(
        scenario,
        lambda: call(*kcat, "-P", "-t", scenario.topic, *headers, stdin='{"ride_id":2,"miles":2}\n'),
    )
    check(spans, scenario, own, "kafka")
    assert f"ce_traceparent=00-{own}-" in call(*kcat, "-C", "-t", scenario.to, "-e", "-f", "%h\n")
