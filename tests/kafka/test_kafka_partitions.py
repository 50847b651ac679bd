"""The state of a partition: what is committed never passes an unfinished record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.kafka.commit_metadata import MAX_METADATA, decode_metadata, encode_metadata
from eventml.backends.kafka.partitions import (
    AttemptSteps,
    CommittedOffset,
    PartitionState,
    attempts_at,
    presume_attempt,
    steps_before,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

# The offsets in a log, with gaps, and sets of offsets that are completed.
logs = st.lists(st.integers(0, 60), unique=True, max_size=40).map(sorted)
subsets = st.sets(st.integers(0, 60))


START = CommittedOffset(0)


def delivered(offsets: Iterable[int], position: int, committed: CommittedOffset = START) -> PartitionState:
    state = PartitionState(committed)
    state.deliver(dict.fromkeys(o for o in offsets if not state.completed_earlier(o)), position)
    return state


def repeated(log: Iterable[int], committed: CommittedOffset) -> set[int]:
    """The records that a member which starts there delivers again."""
    successor = PartitionState(committed)
    return {
        offset for offset in log if offset >= committed.offset and not successor.completed_earlier(offset)
    }


@given(logs, subsets, st.integers(0, 61))
def test_the_next_member_delivers_exactly_what_is_unfinished(
    log: list[int], done: set[int], upto: int
) -> None:
    taken = [offset for offset in log if offset < upto]
    state = delivered(taken, upto)
    state.complete(done)
    assert repeated(log, state.to_commit()) == set(log) - (done & set(taken))
    assert len(state.in_flight) == len(set(taken) - done)


@given(logs, subsets, subsets, st.integers(0, 61))
def test_what_is_completed_is_passed_on_from_member_to_member(
    log: list[int], first: set[int], second: set[int], upto: int
) -> None:
    state = delivered([offset for offset in log if offset < upto], upto)
    state.complete(first)
    passed_on = decode_metadata(state.to_commit().offset, encode_metadata(state.to_commit())[0])
    successor = delivered([o for o in log if passed_on.offset <= o < 61], 61, passed_on)
    successor.complete(second)
    finished = {o for o in first if o in log and o < upto} | second
    assert repeated(log, successor.to_commit()) == set(log) - finished


@given(logs, subsets, subsets)
def test_what_to_commit_can_be_computed_before_completing(
    log: list[int], done: set[int], then: set[int]
) -> None:
    state = delivered(log, 61)
    state.complete(done)
    expected = state.to_commit(frozenset(then))
    state.complete(then)
    assert expected == state.to_commit()


@given(
    st.integers(0, 2**40),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=30),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=5),
    st.booleans(),
)
def test_metadata_decodes_to_what_was_encoded(
    offset: int, gaps: list[tuple[int, int]], steps: list[tuple[int, int]], active: bool
) -> None:
    ranges, at = [], offset
    for gap, length in gaps:
        ranges.append((at + gap, at + gap + length))
        at += gap + length
    attempts = [
        (offset + sum(length for length, _ in steps[: n + 1]), count) for n, (_, count) in enumerate(steps)
    ]
    committed = CommittedOffset(offset, tuple(ranges), tuple(attempts), active)
    text, complete = encode_metadata(committed)
    assert complete
    assert decode_metadata(offset, text) == committed


def test_without_gaps_the_metadata_is_empty() -> None:
    state = delivered(range(10), 10)
    state.complete(range(4))
    assert state.to_commit() == CommittedOffset(4)
    assert encode_metadata(state.to_commit()) == ("", True)


def test_metadata_that_is_too_long_is_cut_short() -> None:
    state = delivered(range(10_000), 10_000)
    state.complete(range(1, 10_000, 2))
    text, complete = encode_metadata(state.to_commit())
    assert not complete
    assert len(text) <= MAX_METADATA
    kept = decode_metadata(0, text)
    assert set(kept.completed) < set(state.to_commit().completed)


def test_metadata_of_other_clients_is_ignored() -> None:
    for metadata in (None, "", "committed by hand", "e1"):
        assert decode_metadata(7, metadata) == CommittedOffset(7)


@given(logs, subsets, st.integers(0, 61), st.integers(0, 61))
def test_unfinished_records_are_counted(log: list[int], done: set[int], upto: int, end: int) -> None:
    """In a log without gaps."""
    del log
    state = delivered(range(upto), upto)
    state.complete(done)
    end = max(end, upto)
    assert state.unfinished(end) == len(set(range(end)) - (done & set(range(upto))))
    assert PartitionState(state.to_commit()).unfinished(end) == state.unfinished(end)


steps_of_attempts = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 5)), max_size=5).map(
    lambda steps: tuple(zip(sorted({end for end, _ in steps}), (n for _, n in steps), strict=False))
)


@given(steps_of_attempts, st.integers(0, 61))
def test_steps_count_each_offset_by_itself(steps: AttemptSteps, offset: int) -> None:
    counts = [attempts_at(steps, n) for n in range(62)]
    presumed = presume_attempt(steps, offset)
    assert [attempts_at(presumed, n) for n in range(62)] == [max(c, n < offset) for n, c in enumerate(counts)]
    assert [attempts_at(steps_before(steps, offset), n) for n in range(offset)] == counts[:offset]


@given(
    steps_of_attempts,
    logs,
    st.integers(0, 61),
    st.lists(st.tuples(subsets, subsets), max_size=4),
    st.sampled_from(["dies", "leaves", "gives back"]),
)
def test_exactly_what_a_handler_is_called_with_has_one_attempt_more(
    steps: AttemptSteps, log: list[int], upto: int, calls: list[tuple[set[int], set[int]]], end: str
) -> None:
    state = PartitionState(CommittedOffset(0, (), steps), end=61)
    counts = {offset: attempts_at(steps, offset) for offset in log}
    state.start()
    state.deliver(dict.fromkeys(offset for offset in log if offset < upto), upto)
    for called, completed in calls:
        state.called = {n: state.attempt(n) for n in called if n in state.in_flight and counts[n]}
        state.complete(completed)
    if end == "leaves":
        state.leave()
    elif end == "gives back":
        state.give_back()
    committed = state.to_commit()
    found = decode_metadata(committed.offset, encode_metadata(committed)[0])
    assert found == committed
    for offset in repeated(log, found):
        left = end == "leaves" and offset < upto and not counts[offset]
        in_call = end != "gives back" and offset in state.called
        assert attempts_at(found.attempts, offset) == counts[offset] + (left or in_call)
