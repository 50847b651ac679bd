"""A record of a dead-letter topic is read if it has the headers that identify the failed event."""

from __future__ import annotations

import pytest

from eventml.records import Delivery, Record
from eventml.runtime.dead_letters import read_dead_letter

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
