"""One of each id in hand at a time; whatever waits is taken in again; what was finished is passed over."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.base import Completion
from eventml.records import REPLAY_GROUP, Delivery, Record
from eventml.runtime.batching import Item
from eventml.runtime.dedupe import InFlightIds, mark, split_duplicates

IDS = st.sampled_from("abc")
REPLAYED = {REPLAY_GROUP: "ours"}


def item(offset: int, id_: str, headers: dict[str, str] | None = None) -> Item:
    return Item(Delivery(Record("t", b"", None, id_, headers or {}), 0, offset, 0.0), None)


@given(st.lists(st.lists(IDS, max_size=5), max_size=8), st.data())
def test_one_of_each_id_is_in_hand_and_none_is_forgotten(
    batches: list[list[str]], data: st.DataObject
) -> None:
    repeats = InFlightIds()
    arriving = [item(n, id_) for n, id_ in enumerate(id_ for batch in batches for id_ in batch)]
    expected = len(arriving)
    in_flight: list[Item] = []
    finished: list[Item] = []
    while len(finished) < expected:
        some, arriving = arriving[:3], arriving[3:]
        in_flight += repeats.hold_back(some)
        assert max(Counter(one.delivery.record.id for one in in_flight).values()) == 1
        done = data.draw(st.lists(st.sampled_from(in_flight), min_size=1, unique_by=id))
        in_flight = [one for one in in_flight if one not in done]
        finished += done
        arriving += repeats.release([Completion(one.delivery) for one in done])
        assert repeats.waiting == expected - len(finished) - len(in_flight) - len(arriving)
    assert sorted(one.delivery.offset for one in finished) == list(range(expected))
    assert repeats.waiting == 0


def test_a_replayed_dead_letter_is_neither_held_back_nor_passed_over() -> None:
    repeats = InFlightIds()
    first, replayed, again = item(0, "a"), item(1, "a", REPLAYED), item(2, "a")
    assert repeats.hold_back([first, replayed, again]) == [first, replayed]
    called, passed = split_duplicates([first, replayed], [0, 1])
    assert (called, [one.delivery for one in passed]) == ([replayed], [first.delivery])
    assert repeats.release([Completion(replayed.delivery)]) == []
    assert repeats.release([Completion(first.delivery)]) == [again]


def test_what_is_remembered() -> None:
    """What was answered, and in any case what was replayed for us; no dead letter, and none of another's."""
    letter = Record("t.g.dlq", b"", headers={"eventml-dlq-group": "g"})
    theirs = item(2, "c", {REPLAY_GROUP: "theirs"})
    done = [
        Completion(item(0, "a").delivery),
        Completion(item(1, "b", REPLAYED).delivery),
        Completion(theirs.delivery),
        Completion(item(3, "d").delivery, (letter,), dead_letter=True),
    ]
    assert [mark(one, "ours").dedupe for one in done] == ["drop", "record", "off", "off"]
