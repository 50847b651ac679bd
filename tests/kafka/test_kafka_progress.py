"""Ack bookkeeping by offsets: what is committed never passes what is unfinished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.kafka.progress import LONGEST, Place, Progress, read, write

if TYPE_CHECKING:
    from collections.abc import Iterable

# The offsets that there are, with gaps; which of them are delivered, and which of those are finished.
logs = st.lists(st.integers(0, 60), unique=True, max_size=40).map(sorted)
subsets = st.sets(st.integers(0, 60))


def delivered(offsets: Iterable[int], position: int, place: Place = Place(0)) -> Progress:  # noqa: B008 - a tuple
    progress = Progress(place)
    progress.deliver([o for o in offsets if not progress.was_finished(o)], position)
    return progress


def redone(log: Iterable[int], place: Place) -> set[int]:
    """What a successor who begins at a place would do."""
    heir = Progress(place)
    return {offset for offset in log if offset >= place.offset and not heir.was_finished(offset)}


@given(logs, subsets, st.integers(0, 61))
def test_a_successor_does_exactly_what_is_unfinished(log: list[int], done: set[int], upto: int) -> None:
    taken = [offset for offset in log if offset < upto]
    progress = delivered(taken, upto)
    progress.finish(done)
    assert redone(log, progress.place()) == set(log) - (done & set(taken))
    assert progress.in_flight == len(set(taken) - done)


@given(logs, subsets, subsets, st.integers(0, 61))
def test_it_holds_from_successor_to_successor(
    log: list[int], first: set[int], second: set[int], upto: int
) -> None:
    progress = delivered([offset for offset in log if offset < upto], upto)
    progress.finish(first)
    handed_on = read(progress.place().offset, write(progress.place())[0])
    heir = delivered([o for o in log if handed_on.offset <= o < 61], 61, handed_on)
    heir.finish(second)
    finished = {o for o in first if o in log and o < upto} | second
    assert redone(log, heir.place()) == set(log) - finished


@given(logs, subsets, subsets)
def test_a_place_may_be_told_in_advance(log: list[int], done: set[int], then: set[int]) -> None:
    progress = delivered(log, 61)
    progress.finish(done)
    told = progress.place(frozenset(then))
    progress.finish(then)
    assert told == progress.place()


@given(
    st.integers(0, 2**40),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=30),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=5),
    st.booleans(),
)
def test_what_is_written_reads_the_same(
    offset: int, gaps: list[tuple[int, int]], steps: list[tuple[int, int]], at_work: bool
) -> None:
    ranges, at = [], offset
    for gap, length in gaps:
        ranges.append((at + gap, at + gap + length))
        at += gap + length
    tried = [
        (offset + sum(length for length, _ in steps[: n + 1]), times) for n, (_, times) in enumerate(steps)
    ]
    place = Place(offset, tuple(ranges), tuple(tried), at_work)
    text, whole = write(place)
    assert whole
    assert read(offset, text) == place


def test_in_order_there_is_nothing_to_write() -> None:
    progress = delivered(range(10), 10)
    progress.finish(range(4))
    assert progress.place() == Place(4)
    assert write(progress.place()) == ("", True)


def test_too_much_out_of_order_is_cut_short() -> None:
    progress = delivered(range(10_000), 10_000)
    progress.finish(range(1, 10_000, 2))
    text, whole = write(progress.place())
    assert not whole
    assert len(text) <= LONGEST
    kept = read(0, text)
    assert set(kept.finished) < set(progress.place().finished)


def test_metadata_of_others_says_nothing() -> None:
    for metadata in (None, "", "committed by hand", "e1"):
        assert read(7, metadata) == Place(7)


@given(logs, subsets, st.integers(0, 61), st.integers(0, 61))
def test_unfinished_counts_what_is_left(log: list[int], done: set[int], upto: int, end: int) -> None:
    """Where there are no gaps."""
    del log
    progress = delivered(range(upto), upto)
    progress.finish(done)
    end = max(end, upto)
    assert progress.unfinished(end) == len(set(range(end)) - (done & set(range(upto))))
    assert Progress(progress.place()).unfinished(end) == progress.unfinished(end)
