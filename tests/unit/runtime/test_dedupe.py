"""One event of each id is in flight at a time; its duplicates wait, and none is lost."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml import Bus
from eventml.backends.base import Completion
from eventml.records import REPLAY_GROUP, Delivery, Record
from eventml.runtime.calls.caller import Item
from eventml.runtime.dedupe import Dedupe
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Sequence

IDS = st.sampled_from("abc")
REPLAYED = {REPLAY_GROUP: "this group"}


def item(offset: int, id_: str, headers: dict[str, str] | None = None) -> Item:
    return Item(Delivery(Record("t", b"", None, id_, headers or {}), 0, offset, 0.0), None)


class AllCompleted:
    """A subscription to which every id has been completed before."""

    async def completed_before(self, deliveries: Sequence[Delivery]) -> Sequence[int]:
        return range(len(deliveries))


def new_dedupe(*, skip_replayed: bool = True) -> Dedupe:
    bus = Bus("bus")
    bus.consumer("t", name="handler", group="this group", skip_replayed=skip_replayed)(print)
    subscription: Any = AllCompleted()
    return Dedupe(subscription, bus.handlers["handler"], Stats())


@given(st.lists(st.lists(IDS, max_size=5), max_size=8), st.data())
def test_one_event_of_each_id_is_in_flight_and_no_duplicate_is_lost(
    batches: list[list[str]], data: st.DataObject
) -> None:
    dedupe = new_dedupe()
    arriving = [item(n, id_) for n, id_ in enumerate(id_ for batch in batches for id_ in batch)]
    expected = len(arriving)
    in_flight: list[Item] = []
    completed: list[Item] = []
    while len(completed) < expected:
        batch, arriving = arriving[:3], arriving[3:]
        in_flight += dedupe.hold_back(batch)
        assert max(Counter(one.delivery.record.id for one in in_flight).values()) == 1
        done = data.draw(st.lists(st.sampled_from(in_flight), min_size=1, unique_by=id))
        in_flight = [one for one in in_flight if one not in done]
        completed += done
        arriving += dedupe.release([Completion(one.delivery) for one in done])
        assert dedupe.waiting == expected - len(completed) - len(in_flight) - len(arriving)
    assert sorted(one.delivery.offset for one in completed) == list(range(expected))
    assert dedupe.waiting == 0


@pytest.mark.anyio
async def test_a_replayed_dead_letter_neither_waits_nor_counts_as_a_duplicate() -> None:
    dedupe = new_dedupe()
    first, replayed, duplicate = item(0, "a"), item(1, "a", REPLAYED), item(2, "a")
    to_call, duplicates = await dedupe.remove_duplicates([first, replayed, duplicate])
    assert (to_call, [one.delivery for one in duplicates]) == ([replayed], [first.delivery])
    assert dedupe.release([Completion(replayed.delivery)]) == []
    assert dedupe.release([Completion(first.delivery)]) == [duplicate]


def test_what_a_completion_records() -> None:
    """Its id if it was answered, or replayed for this group in any case; nothing if it is a dead letter."""
    letter = Record("t.g.dlq", b"")
    done = [
        Completion(item(0, "a").delivery),
        Completion(item(1, "b", REPLAYED).delivery),
        Completion(item(2, "c", {REPLAY_GROUP: "another group"}).delivery),
        Completion(item(3, "d").delivery, (letter,), dead_letter=True),
    ]
    assert [one.dedupe for one in new_dedupe().mark(done)] == ["drop", "record", "off", "off"]


@pytest.mark.anyio
async def test_without_skip_replayed_an_event_that_was_replayed_for_another_group_is_like_any_other() -> None:
    dedupe = new_dedupe(skip_replayed=False)
    one = item(0, "a", {REPLAY_GROUP: "another group"})
    assert await dedupe.remove_duplicates([one]) == ([], [Completion(one.delivery)])
    assert [done.dedupe for done in dedupe.mark([Completion(one.delivery)])] == ["drop"]
