"""A record of a dead-letter topic is read if it has the headers that identify the failed event."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml import Bus
from eventml.codec import Decoder
from eventml.records import Delivery, Record
from eventml.runtime.failures.dead_letters import (
    DeadLetterQueue,
    DeadLetterWriter,
    dead_letter_queues,
    dead_letter_topic,
    read_dead_letter,
)
from eventml.runtime.failures.failure_log import FailureLog

HEADERS = {
    "eventml-dlq-topic": "rides.started",
    "eventml-dlq-partition": "0",
    "eventml-dlq-offset": "7",
    "eventml-dlq-group": "rides.duration",
    "eventml-dlq-attempts": "3",
    "eventml-dlq-first-failure": "1.5",
    "eventml-dlq-last-failure": "2.5",
}


def delivery(headers: dict[str, str]) -> Delivery:
    return Delivery(Record("rides.started.rides.duration.dlq", b"1", None, "r-1", headers), 0, 0, 0.0)


def test_the_reason_may_be_missing() -> None:
    found = read_dead_letter(delivery({**HEADERS, "note": "x"}))
    assert found is not None
    assert (found.origin, found.attempts, found.last_failure) == ("rides.started/0/7", 3, 2.5)
    assert (found.exception, found.message, found.traceback) == ("", "", "")


@pytest.mark.parametrize("missing", HEADERS)
def test_a_record_that_lacks_another_header_is_no_dead_letter(missing: str) -> None:
    """Two without a partition and an offset would be taken for duplicates of one event."""
    headers = {name: text for name, text in HEADERS.items() if name != missing}
    assert read_dead_letter(delivery(headers)) is None


NAMES = st.lists(st.sampled_from(["rides", "started", "dlq", "replay", ""]), min_size=1, max_size=4).map(
    ".".join
)


@given(topic=NAMES, group=NAMES, named=NAMES, of=NAMES)
def test_a_dead_letter_belongs_to_the_topic_and_group_that_it_names_and_to_no_others(
    topic: str, group: str, named: str, of: str
) -> None:
    queue = DeadLetterQueue(("duration",), topic, group)
    record = Record(queue.dead_letter_topic, b"1", None, "r-1", {**HEADERS, "eventml-dlq-topic": named})
    headers = {**record.headers, "eventml-dlq-group": of}
    found = read_dead_letter(Delivery(Record(record.topic, b"1", None, "r-1", headers), 0, 0, 0.0))
    assert found is not None
    assert queue.owns(found) is (named == topic and of == group)


def test_names_that_add_up_to_one_dead_letter_topic_are_told_apart() -> None:
    """Else a right to write to `rides.*` would reach `rides`."""
    assert dead_letter_topic("rides", "started.g") == dead_letter_topic("rides.started", "g")
    headers = {**HEADERS, "eventml-dlq-topic": "rides", "eventml-dlq-group": "started.g"}
    found = read_dead_letter(delivery(headers))
    assert found is not None
    assert DeadLetterQueue((), "rides", "started.g").owns(found)
    assert not DeadLetterQueue((), "rides.started", "g").owns(found)


def test_what_a_forged_dead_letter_says_is_cut() -> None:
    said = {f"eventml-dlq-{name}": "x" * 3_000_000 for name in ("exception", "message", "traceback")}
    found = read_dead_letter(delivery({**HEADERS, **said}))
    assert found is not None
    assert found.exception == found.message == found.traceback == f"{'x' * 1_000}…"


def test_a_long_id_is_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    bus = Bus("rides")
    bus.consumer("rides.started", name="duration")(print)
    [handler] = bus.handlers.values()
    event = Delivery(Record("rides.started", b"{", None, "i" * 3_000_000, {}), 0, 3, 0.0)
    [error] = Decoder(int).decode([event])
    assert len(str(error)) < 300
    writer = DeadLetterWriter(handler, translate=lambda error: error)
    written = writer.write(event, error)
    FailureLog("duration", logging.WARNING).add([written])
    assert written.outputs[0].id == event.record.id, "the record keeps it"
    assert writer.replace(written, "too large") is written
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert all(f"{'i' * 100}…" in line and len(line) < 600 for line in lines)


def test_a_written_dead_letter_belongs_to_its_handler_and_says_nothing_that_the_publisher_said() -> None:
    bus = Bus("rides")
    bus.consumer("rides.started", name="duration")(print)
    [handler], [queue] = bus.handlers.values(), dead_letter_queues(bus.handlers.values())
    forged = {**HEADERS, "eventml-dlq-topic": "payments", "eventml-dlq-traceback": "app:1 in payments"}
    event = Delivery(Record("rides.started", b"1", None, "r-1", {**forged, "note": "x"}), 0, 3, 0.0)
    writer = DeadLetterWriter(handler, translate=lambda error: error)
    [written] = writer.write(event, KeyError(9)).outputs
    found = read_dead_letter(Delivery(written, 0, 0, 0.0))
    assert found is not None
    assert (found.origin, found.traceback) == ("rides.started/0/3", "")
    assert queue.owns(found)
    assert written.headers["note"] == "x"
