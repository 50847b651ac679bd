"""The board of the web backend: what it keeps, and whom it tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventml.records import Record
from examples.web_backend.board import Board
from examples.web_backend.listening import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.web_backend.board import Watcher

fields = st.fixed_dictionaries(
    {"ride_id": st.sampled_from("abcde")}, optional={"minutes": st.integers(), "amount": st.integers()}
)


def waiting(watcher: Watcher) -> list[Any]:
    return [watcher.get_nowait() for _ in range(watcher.qsize())]


@given(st.lists(fields, max_size=30), st.integers(0, 30))
def test_watcher_who_comes_at_any_time_knows_all_that_the_board_knows(
    events: Sequence[dict[str, Any]], before: int
) -> None:
    board = Board()
    for event in events[:before]:
        board.note(event)
    with board.watching() as watcher:
        for event in events[before:]:
            board.note(event)
        told = waiting(watcher)
    seen = {ride["ride_id"]: ride for ride in told}
    known: dict[str, Any] = {}
    for event in events:
        known[event["ride_id"]] = {**known.get(event["ride_id"], {}), **event}
    assert seen == known


def test_oldest_ride_makes_room() -> None:
    board = Board(kept=2)
    for ride_id in ("a", "b", "a", "c"):
        board.note({"ride_id": ride_id})
    with board.watching() as watcher:
        assert waiting(watcher) == [{"ride_id": "b"}, {"ride_id": "c"}]


def test_slow_watcher_is_told_to_begin_anew_and_holds_nobody_up() -> None:
    board = Board(kept=2)
    with board.watching() as slow:
        for number in range(2_000):
            board.note({"ride_id": str(number)})
        told = waiting(slow)
    assert told[-1] is None
    assert len(told) < 1_000


def test_foreign_record_is_passed_over() -> None:
    board = Board()
    note(Record("rides.duration", b'{"ride_id": 7}'), board)
    note(Record("rides.duration", b"\xff"), board)
    note(Record("rides.duration", msgspec.json.encode({"ride_id": "r", "minutes": 3.5})), board)
    with board.watching() as watcher:
        assert waiting(watcher) == [{"ride_id": "r", "minutes": 3.5}]
