"""The log of a service: rate limit, prefixes and JSON."""

from __future__ import annotations

import io
import json
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.workers import answer_operations, logs
from eventml.deploy.workers.logs import JsonFormatter, LogRateLimit
from eventml.deploy.workers.reports import ServiceStatus

if TYPE_CHECKING:
    from tests.deploy.conftest import Serve
    from tests.deploy.oracle import Oracle


def logged(times: list[float], name: str) -> list[str]:
    """Log one line at each of these times, and return the lines that are written."""
    text, now = io.StringIO(), [0.0]
    handler = logging.StreamHandler(text)
    handler.addFilter(LogRateLimit())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: now[0]))
        for number, now[0] in enumerate(times):
            handler.handle(logging.LogRecord(name, logging.ERROR, "", 0, "no broker at %s", (number,), None))
    return text.getvalue().splitlines()


def test_a_flood_becomes_one_line_in_ten_seconds_with_a_count() -> None:
    lines = logged([n / 100 for n in range(2_001)], "aiokafka.conn")
    assert lines == [
        "no broker at 0",
        "no broker at 1000 (and 999 times before)",
        "no broker at 2000 (and 999 times before)",
    ]


@given(st.lists(st.floats(0, 100), max_size=50).map(sorted))
def test_the_library_s_own_lines_are_not_limited(times: list[float]) -> None:
    assert len(logged(times, "eventml.deploy")) == len(times)


def test_lines_of_other_kinds_are_written() -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.addFilter(LogRateLimit())
    for n in range(3_000):
        handler.handle(logging.LogRecord("other", logging.INFO, "", 0, f"line {n}", None, None))
    assert len(text.getvalue().splitlines()) == 3_000


def test_json_line_holds_text_that_cannot_be_encoded() -> None:
    line = JsonFormatter("w").format(
        logging.LogRecord("app", logging.INFO, "", 0, "%s", ("\udc9b\x9b\u202e",), None)
    )
    assert line.isprintable()
    assert json.loads(line)["message"] == "\\udc9b\x9b\u202e"


def test_reason_on_the_operations_port_is_one_printable_line() -> None:
    status = ServiceStatus(bus="b", workers=[], stuck="no event\nok\x1b[2J\u202e")
    _, body, _ = answer_operations("/livez", lambda: status)
    assert body == b"no event\\nok\\x1b[2J\\u202e\n"


def test_a_stuck_call_is_killed_and_json_logs_are_json_to_the_last_line(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "1", "--log-format", "json", "--stuck-after", "1")
    service.until_ready()
    oracle.publish(1, do="hang")
    service.until_logged("answer has made no progress for .*, with 1 events in flight.*killing it")
    service.until_logged("plain.py.* in answer")  # the stacks, which are not log records
    service.until_logged("restarting in")
    service.kill()
    lines = [json.loads(line) for line in service.text.splitlines()]
    assert {line["worker"] for line in lines} == {"supervisor", "worker-1"}
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
