"""The trace of an event continues from its producer to its prediction, whatever batch it was in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id

from eventml import Bus, PredictionError, Record, Reject, config
from eventml.testing import TestBus
from tests.failures.scenario import Duration, Ride

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from tests.tracing.conftest import RecordedSpans

pytestmark = pytest.mark.anyio

TRACE_PARENT, TRACE_STATE = "ce_traceparent", "ce_tracestate"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-1111111111111111111111111111111c-2222222222222222-01"


def rides() -> Bus:
    bus = Bus("rides")

    @bus.predictor("rides.started", to="rides.duration", retries=0)
    def duration(rides: list[Ride]) -> list[Duration]:
        if any(ride.miles < 0 for ride in rides):
            raise Reject("no such ride")
        with trace.get_tracer("test").start_as_current_span("features"):
            return [Duration(ride.ride_id, ride.miles) for ride in rides]

    return bus


def trace_of(record: Record) -> str:
    return record.headers[TRACE_PARENT].split("-")[1]


def parent_of(record: Record) -> str:
    return record.headers[TRACE_PARENT].split("-")[2]


def ids(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return format_trace_id(span.context.trace_id), trace.format_span_id(span.context.span_id)


def parent(span: ReadableSpan) -> str:
    assert span.parent is not None
    return trace.format_span_id(span.parent.span_id)


async def test_one_trace_from_the_caller_to_the_prediction(spans: RecordedSpans) -> None:
    async with TestBus(rides()) as t:
        with trace.get_tracer("test").start_as_current_span("ride starts") as caller:
            await t.publish("rides.started", Ride(1, 2.0), id="r1")
        [event], [prediction] = t.records("rides.started"), t.records("rides.duration")
    own = trace.format_span_id(caller.get_span_context().span_id)
    sent, processed, inside = map(spans.one, ["publish rides.started", "process rides.started", "features"])
    assert (parent(sent), parent(processed), parent(inside)) == (own, ids(sent)[1], ids(processed)[1])
    assert {ids(span)[0] for span in (sent, processed, inside)} == {trace_of(event)}
    assert (trace_of(event), parent_of(event)) == ids(sent)
    assert (trace_of(prediction), parent_of(prediction)) == ids(processed)


async def test_spans_have_the_attributes_of_the_messaging_conventions(spans: RecordedSpans) -> None:
    async with TestBus(rides()) as t:
        await t.publish_many("rides.started", [Ride(n, 1.0) for n in range(5)])
    sent, processed = spans.one("publish rides.started"), spans.one("process rides.started")
    assert (sent.kind, processed.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert dict(sent.attributes or {}) == {
        "messaging.system": "memory",
        "messaging.destination.name": "rides.started",
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.batch.message_count": 5,
    }
    assert dict(processed.attributes or {}) == {
        "messaging.system": "memory",
        "messaging.destination.name": "rides.started",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.consumer.group.name": "rides.duration",
        "messaging.batch.message_count": 5,
        "eventml.handler": "duration",
    }
    assert parent(processed) == ids(sent)[1]


async def test_in_a_batch_each_prediction_continues_its_own_inputs_trace(spans: RecordedSpans) -> None:
    bus = rides()
    inputs = [
        Record(
            "rides.started", b'{"ride_id":0,"miles":1}', None, "0", {TRACE_PARENT: PARENT, TRACE_STATE: "a=1"}
        ),
        Record("rides.started", b'{"ride_id":1,"miles":1}', None, "1", {TRACE_PARENT: OTHER}),
        Record("rides.started", b'{"ride_id":2,"miles":1}', None, "2", {"traceparent": OTHER}),
        Record("rides.started", b'{"ride_id":3,"miles":1}', None, "3"),
        Record("rides.started", b'{"ride_id":4,"miles":1}', None, "4", {TRACE_PARENT: "no such thing"}),
    ]
    async with TestBus(bus) as t:
        await bus.backend.publish(inputs)
        await t.settle()
        found = {record.id[0]: record for record in t.records("rides.duration")}
    batch = spans.one("process rides.started")
    assert found["0"].headers[TRACE_PARENT] == PARENT
    assert found["0"].headers[TRACE_STATE] == "a=1"
    assert found["1"].headers[TRACE_PARENT] == found["2"].headers[TRACE_PARENT] == OTHER
    assert (trace_of(found["3"]), parent_of(found["3"])) == ids(batch)
    assert (trace_of(found["4"]), parent_of(found["4"])) == ids(batch)
    assert TRACE_STATE not in found["1"].headers
    assert batch.parent is None
    links = [format_trace_id(link.context.trace_id) for link in batch.links]
    assert links == [PARENT.split("-")[1], *[OTHER.split("-")[1]] * 2]


async def test_a_span_around_the_worker_is_not_the_parent_of_its_batches(spans: RecordedSpans) -> None:
    with trace.get_tracer("test").start_as_current_span("around the worker"):
        bus = rides()
        async with TestBus(bus) as t:
            await t.publish_record(Record("rides.started", b'{"ride_id":1,"miles":1}'))
    assert spans.one("process rides.started").parent is None


async def test_a_failure_is_recorded_in_the_trace_of_the_event(spans: RecordedSpans) -> None:
    async with TestBus(rides()) as t:
        await t.publish("rides.started", Ride(1, 1.0))
        await t.publish("rides.started", Ride(2, -1.0))
        [_, event] = t.records("rides.started")
        [letter] = t.dead_letters()
    [failed] = [s for s in spans.named("process rides.started") if s.status.status_code is StatusCode.ERROR]
    dead_letter = spans.one("dead_letter rides.started.rides.duration.dlq")
    for span in (failed, dead_letter):
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == "Reject"
        assert [e.name for e in span.events] == ["exception"]
        assert (span.events[0].attributes or {})["exception.message"] == "no such ride"
        assert ids(span)[0] == trace_of(event)
    assert dead_letter.kind is SpanKind.PRODUCER
    assert letter.record.headers[TRACE_PARENT] == event.headers[TRACE_PARENT]


async def test_a_failure_of_a_single_event_is_recorded(spans: RecordedSpans) -> None:
    bus = Bus("rides")
    tried: list[int] = []

    @bus.predictor("rides.started", to="rides.duration")
    def duration(ride: Ride) -> Duration:
        tried.append(ride.ride_id)
        if len(tried) == 1:
            raise KeyError("zone")
        return Duration(ride.ride_id, ride.miles)

    async with TestBus(bus) as t:
        await t.publish("rides.started", Ride(1, 1.0))
        [event], [prediction] = t.records("rides.started"), t.records("rides.duration")
    first, second = spans.named("process rides.started")
    assert [s.status.status_code for s in (first, second)] == [StatusCode.ERROR, StatusCode.UNSET]
    assert [e.name for e in first.events] == ["exception"]
    assert trace_of(event) == trace_of(prediction) == ids(second)[0]


async def test_a_publish_that_fails_is_recorded(spans: RecordedSpans) -> None:
    bus = rides()
    async with TestBus(bus):
        with pytest.raises(TypeError):
            await bus.publish_many("rides.started", [Ride(1, 1.0)], key=lambda ride: ride.miles + "a")
    sent = spans.one("publish rides.started")
    assert sent.status.status_code is StatusCode.ERROR
    assert (sent.attributes or {})["error.type"] == "TypeError"


async def test_a_request_and_its_answer_are_one_trace(spans: RecordedSpans) -> None:
    bus = rides()
    async with TestBus(bus) as t:
        await bus.request("rides.started", Ride(1, 1.0))
        with pytest.raises(PredictionError):
            await bus.request("rides.started", Ride(1, -1.0))
        [prediction] = t.records("rides.duration")
    sent, failed = spans.named("request rides.started")
    assert sent.kind is SpanKind.CLIENT
    assert trace_of(prediction) == ids(sent)[0]
    assert (failed.attributes or {})["error.type"] == "PredictionError"


async def test_a_span_of_blocking_code_is_the_parent_of_its_publish(spans: RecordedSpans) -> None:
    bus = Bus("rides", backend="memory://tracing-blocking")

    def publish() -> str:
        with (
            bus.producer() as producer,
            trace.get_tracer("test").start_as_current_span("a view") as view,
        ):
            producer.publish("rides.started", {})
            return trace.format_span_id(view.get_span_context().span_id)

    caller = await anyio.to_thread.run_sync(publish)
    assert parent(spans.one("publish rides.started")) == caller


async def test_a_context_in_the_headers_of_the_caller_takes_precedence(spans: RecordedSpans) -> None:
    async with TestBus(rides()) as t:
        await t.publish("rides.started", Ride(1, 1.0), headers={TRACE_PARENT: PARENT})
        [prediction] = t.records("rides.duration")
    assert trace_of(prediction) == PARENT.split("-")[1]


async def headers_of_a_prediction(tracing: Any) -> set[str]:
    bus = rides()
    bus.configure(config.load(environ={}, overrides={} if tracing is None else {"tracing": tracing}))
    async with bus, bus.worker() as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await worker.ready.wait()
        async with bus.backend.subscribe(["rides.duration"], group=None, start="latest") as reader:
            await bus.publish("rides.started", Ride(1, 1.0), headers={"x-mine": "1"})
            [delivery] = await reader.receive(1)
        worker.stop()
    return {name for name in delivery.record.headers if "trace" in name}


async def test_by_default_tracing_is_on_if_the_app_has_configured_it(spans: RecordedSpans) -> None:
    assert await headers_of_a_prediction(None) == {TRACE_PARENT}
    assert len(spans.named("process rides.started")) == 1


async def test_tracing_can_be_switched_off(spans: RecordedSpans) -> None:
    assert await headers_of_a_prediction(False) == set()
    assert not spans.named("process rides.started")


async def test_by_default_tracing_is_off_without_a_provider() -> None:
    assert await headers_of_a_prediction(None) == set()


async def test_tracing_without_a_provider_passes_contexts_on() -> None:
    bus = rides()
    bus.configure(config.load(environ={"EVENTML_TRACING": "true"}))
    async with bus, bus.worker() as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await worker.ready.wait()
        async with bus.backend.subscribe(["rides.duration"], group=None, start="latest") as reader:
            await bus.publish("rides.started", Ride(1, 1.0), headers={TRACE_PARENT: PARENT})
            [delivery] = await reader.receive(1)
        worker.stop()
    assert trace_of(delivery.record) == PARENT.split("-")[1]
