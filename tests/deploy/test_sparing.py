"""What other libraries log does not flood the log."""

from __future__ import annotations

import io
import logging

from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.workers.logs import LogRateLimit


def logged(seconds: list[float], name: str) -> list[str]:
    """The lines that are written of one line said at each of these times."""
    text, now = io.StringIO(), [0.0]
    handler = logging.StreamHandler(text)
    handler.addFilter(LogRateLimit(10.0, clock=lambda: now[0]))
    for number, now[0] in enumerate(seconds):
        handler.handle(logging.LogRecord(name, logging.ERROR, "", 0, "no broker at %s", (number,), None))
    return text.getvalue().splitlines()


def test_a_flood_is_a_line_every_ten_seconds_that_says_how_much_it_was() -> None:
    lines = logged([n / 100 for n in range(2_001)], "aiokafka.conn")
    assert lines == [
        "no broker at 0",
        "no broker at 1000 (and 999 times before)",
        "no broker at 2000 (and 999 times before)",
    ]


@given(st.lists(st.floats(0, 100), max_size=50).map(sorted))
def test_nothing_of_ours_is_kept_back(seconds: list[float]) -> None:
    assert len(logged(seconds, "eventml.deploy")) == len(seconds)


def test_lines_of_another_kind_are_written() -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.addFilter(LogRateLimit())
    for n in range(3_000):
        handler.handle(logging.LogRecord("other", logging.INFO, "", 0, f"line {n}", None, None))
    assert len(text.getvalue().splitlines()) == 3_000
