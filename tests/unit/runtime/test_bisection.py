"""Bisecting finds every bad event of a batch, from left to right, in few calls."""

from __future__ import annotations

from math import ceil, log2
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from eventml.runtime.failures.retry_queue import Bisection

if TYPE_CHECKING:
    from collections.abc import Callable

sizes = st.integers(2, 300)


def bisect(size: int, fails: Callable[[range], bool]) -> tuple[list[int], list[range], Bisection]:
    """The culprits and the ranges that passed, in the order of their finding."""
    bisection = Bisection(size)
    culprits, passed = [], []
    while (part := bisection.next()) is not None:
        if not fails(part):
            passed.append(part)
        elif bisection.failed():
            culprits.append(part.start)
    return culprits, passed, bisection


@given(st.data(), sizes)
def test_every_culprit_is_found_and_everything_else_passes(data: st.DataObject, size: int) -> None:
    bad = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    culprits, passed, bisection = bisect(size, lambda part: any(p in bad for p in part))
    assert culprits == sorted(bad), "each once, from left to right"
    assert [p for part in passed for p in part] == [p for p in range(size) if p not in bad]
    assert bisection.calls <= 2 * size, "even if all are bad"


@given(st.data(), sizes)
def test_one_culprit_costs_two_calls_a_halving(data: st.DataObject, size: int) -> None:
    bad = data.draw(st.integers(0, size - 1))
    culprits, _, bisection = bisect(size, lambda part: bad in part)
    assert culprits == [bad]
    assert bisection.calls <= 2 * ceil(log2(size)) + 1


def test_one_bad_in_256_costs_17_calls_at_most() -> None:
    calls = [bisect(256, lambda part, bad=bad: bad in part)[2].calls for bad in range(256)]  # type: ignore[misc]
    assert max(calls) == 17


@given(st.data(), sizes)
def test_every_position_is_settled_once_whatever_fails_when(data: st.DataObject, size: int) -> None:
    """A handler need not be consistent: a range may fail and both its halves pass."""
    culprits, passed, _ = bisect(size, lambda part: data.draw(st.booleans()))
    settled = sorted([*culprits, *(p for part in passed for p in part)])
    assert settled == list(range(size))


@given(st.data(), sizes)
def test_what_is_asked_for_is_the_leftmost_that_is_open(data: st.DataObject, size: int) -> None:
    bisection, settled = Bisection(size), 0
    while (part := bisection.next()) is not None:
        assert part.start == settled, "all to the left is settled"
        if data.draw(st.booleans()) or bisection.failed():
            settled = part.stop
    assert settled == size
