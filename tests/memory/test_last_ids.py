"""The last ids that were finished, and no others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.memory.group import LastIds

IDS = st.text("abcdef", min_size=1, max_size=1)


@given(st.lists(IDS), st.integers(1, 4))
def test_the_last_different_ids_are_known_and_no_others(finished: list[str], window: int) -> None:
    last = LastIds()
    for id_ in finished:
        last.add(id_, window)
    expected = list(dict.fromkeys(reversed(finished)))[:window]
    assert {id_ for id_ in "abcdef" if id_ in last} == set(expected)
    assert len(last) == len(expected)
