"""How long to wait after a failure, and what a failure means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.errors import DecodeError, HandlerTimeoutError, PublishError, Reject, UnavailableError
from eventml.runtime.failures.classification import Verdict, classify
from eventml.runtime.failures.exceptions import describe
from eventml.runtime.failures.outages import backoff_delay

seconds = st.floats(0, 1e6)


@given(st.integers(1, 10_000), seconds, seconds, st.floats(0, 1, exclude_max=True))
def test_a_delay_is_between_nothing_and_its_ceiling(
    failures: int, first: float, longest: float, chance: float
) -> None:
    ceiling = backoff_delay(failures, first, longest, chance=lambda: 1.0)
    assert ceiling <= longest
    assert ceiling <= first * 2.0 ** (failures - 1) if failures < 1_000 else True
    assert 0 <= backoff_delay(failures, first, longest, chance=lambda: chance) <= ceiling
    assert 0 <= backoff_delay(failures, first, longest) <= ceiling


@given(st.integers(1, 100), st.floats(1e-3, 10), st.floats(1e-3, 1e6))
def test_the_ceiling_doubles_until_it_is_reached(failures: int, first: float, longest: float) -> None:
    ceilings = [backoff_delay(n, first, longest, chance=lambda: 1.0) for n in (failures, failures + 1)]
    assert ceilings[1] == min(2 * ceilings[0], longest)
    assert backoff_delay(1, first, longest, chance=lambda: 1.0) == min(first, longest)


def test_delays_are_spread_over_their_whole_range() -> None:
    delays = [backoff_delay(5, 1.0, 100.0) for _ in range(2_000)]
    for low in range(0, 16, 2):
        assert any(low <= seconds < low + 2 for seconds in delays), "any time is as likely as any other"


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ValueError(), Verdict.EVENT),
        (ZeroDivisionError(), Verdict.EVENT),
        (HandlerTimeoutError(), Verdict.EVENT),
        (Reject(), Verdict.REJECTED),
        (DecodeError(), Verdict.REJECTED),
        (ConnectionResetError(), Verdict.INFRASTRUCTURE),
        (TimeoutError(), Verdict.INFRASTRUCTURE),
        (MemoryError(), Verdict.INFRASTRUCTURE),
        (UnavailableError(), Verdict.INFRASTRUCTURE),
        (PublishError("full"), Verdict.INFRASTRUCTURE),
    ],
)
def test_a_failure_is_judged_by_its_type(error: Exception, verdict: Verdict) -> None:
    assert classify(error) is verdict


def test_a_handler_may_say_what_speaks_of_the_infrastructure() -> None:
    assert classify(KeyError(), (LookupError,)) is Verdict.INFRASTRUCTURE
    assert classify(Reject(), (Reject,)) is Verdict.REJECTED, "a verdict of its own stands"


def test_a_description_names_the_cause_unless_the_message_does() -> None:
    error = ValueError("bad ride")
    error.__cause__ = OSError("disk gone")
    assert describe(error) == "ValueError: bad ride (from OSError: disk gone)"
    error = ValueError("bad ride: disk gone")
    error.__cause__ = OSError("disk gone")
    assert describe(error) == "ValueError: bad ride: disk gone"
    assert describe(KeyError()) == "KeyError"


def test_failure_is_described_in_one_printable_line_of_bounded_length() -> None:
    hostile = "\x1b[2J\n\x9b\u202e\udc9b" * 1_000
    text = describe(type("E\x1b[2J\n\x9b\u202e", (Exception,), {})(hostile))
    assert text.startswith(r"E\x1b[2J\n\x9b\u202e: \x1b[2J\n\x9b\u202e\udc9b")
    assert text.isprintable()
    assert len(text) <= 1_000
