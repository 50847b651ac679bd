"""The log of outages, against a model of it: the beginnings and ends that a reader of the log expects."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.errors import BackendError, UnavailableError
from eventml.runtime import OutageLog
from eventml.runtime.failures import outages

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS = ["duration: receive", "tip: receive", "tip: complete"]
ERRORS = [UnavailableError("away"), BackendError("no permission"), None]
CHANGES = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(ERRORS)), max_size=30)


class Clock:
    """The lines of the log, and a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []

    def monotonic(self) -> float:
        return self.now

    def add(self, level: int, text: str, *args: object) -> None:
        if level > logging.DEBUG:
            self.lines.append(text % args)


@pytest.fixture(scope="module", autouse=True)
def clock() -> Iterator[Clock]:
    found = Clock()
    log = mock.Mock(log=found.add, warning=lambda *args: found.add(logging.WARNING, *args))
    with mock.patch.object(outages, "time", found), mock.patch.object(outages, "log", log):
        yield found


def note(log: OutageLog, step: str, error: Exception | None) -> None:
    if error is None:
        log.succeeds(step)
    else:
        log.fails(step, error)


@given(CHANGES)
def test_an_outage_is_a_line_when_it_begins_and_a_line_when_it_ends(
    clock: Clock, changes: list[tuple[str, Exception | None]]
) -> None:
    clock.now, clock.lines = clock.now + 1000, []
    log, failing = OutageLog(), dict[str, Exception]()
    expected, before = list[str](), set[str]()
    for step, error in changes:
        clock.now += 100
        note(log, step, error)
        failing = {**failing, step: error} if error else {s: e for s, e in failing.items() if s != step}
        out = {"reaching the broker" if isinstance(e, UnavailableError) else s for s, e in failing.items()}
        expected += [f"{what} fails" for what in out - before]
        expected += [f"{what} succeeds again" for what in before - out]
        before = out
    assert [line.partition(" and is repeated")[0].partition(", after")[0] for line in clock.lines] == expected
    assert log.current.keys() == before


@given(st.lists(st.floats(0, 10), min_size=1, max_size=9))
def test_failures_soon_after_an_outage_belong_to_it(clock: Clock, pauses: list[float]) -> None:
    clock.now, clock.lines = clock.now + 1000, []
    log = OutageLog()
    for pause in pauses:
        note(log, STEPS[0], ERRORS[0])
        clock.now += 5
        note(log, STEPS[0], None)
        clock.now += pause
    assert clock.lines == [
        f"reaching the broker fails and is repeated until it succeeds: {STEPS[0]}: UnavailableError: away",
        "reaching the broker succeeds again, after 5.0 s",
    ]


@pytest.mark.parametrize("supervised", [False, True])
def test_an_outage_that_goes_on_after_a_success_is_logged(clock: Clock, supervised: bool) -> None:
    clock.now, clock.lines = clock.now + 1000, []
    log, service = OutageLog(), OutageLog()
    for attempt in range(30):
        clock.now += 4
        error = None if attempt in (1, 29) else ERRORS[0]
        if supervised:
            with mock.patch.object(outages, "log"):
                note(log, STEPS[0], error)
            service.update(log.current)
        else:
            note(log, STEPS[0], error)
    assert [line.partition(" fails")[0].partition(", after")[0] for line in clock.lines] == [
        "reaching the broker",
        "reaching the broker succeeds again",
    ] * 2


def test_a_supervisor_logs_the_outage_of_all_its_workers_as_one(clock: Clock) -> None:
    clock.now, clock.lines = clock.now + 1000, []
    workers, service = [OutageLog(), OutageLog()], OutageLog()
    clock.lines = []
    for error in (UnavailableError("away"), None):
        for worker in workers:
            with mock.patch.object(outages, "log"):  # a worker's process leaves it to its supervisor
                for step in STEPS:
                    note(worker, step, error)
            service.update({what: text for one in workers for what, text in one.current.items()})
    assert [line.split(" again")[0].split(" and ")[0] for line in clock.lines] == [
        "reaching the broker fails",
        "reaching the broker succeeds",
    ]
