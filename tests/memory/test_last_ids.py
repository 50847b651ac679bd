"""The last ids that a group completed are recorded, and no others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.base import Completion
from eventml.backends.memory.group import Group
from eventml.backends.memory.topic import TopicState
from eventml.records import Delivery, Record

IDS = st.text("abcdef", min_size=1, max_size=1)


@given(st.lists(IDS), st.integers(1, 4))
def test_the_last_different_ids_are_known_and_no_others(finished: list[str], window: int) -> None:
    group = Group(TopicState("t", 1, 10), "g", "earliest")
    for id_ in finished:
        group.deduplicate(
            [Completion(Delivery(Record("t", b"", None, id_), 0, 0, 0.0), dedupe="drop")], window
        )
    assert list(group.completed_ids) == list(dict.fromkeys(reversed(finished)))[:window][::-1]
