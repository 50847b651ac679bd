"""Histories of what happened to each event, and a checker of loss, repetition and order.

A history is a list of operations with their outcomes as a client saw them (as in Jepsen): a publish that
failed without an answer is `unknown`, and its event may appear once or not at all. The checker is a pure
function.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Kind = Literal["publish", "store", "handle", "complete", "dead_letter"]
Outcome = Literal["ok", "fail", "unknown"]


class Operation(NamedTuple):
    """One operation on one event. Those of a kind are in the history in their order.

    Attributes:
        kind: `publish`: by a client. `handle`: the event is in a call of the handler. `store`, `complete`,
            `dead_letter`: the event, its output or its dead letter is in its topic.
        id: Id of the event.
        key: Its key; events of one key should be in order.
        invoked: When a publish or handle began, in seconds; the same for all events of one call.
        ended: When it was known to have succeeded; None if that is not known.
        outcome: `unknown` if it may have happened or not.
        partition: Where a `store` is; the order of a key holds within a partition.
    """

    kind: Kind
    id: str
    key: str = ""
    invoked: float = 0.0
    ended: float | None = None
    outcome: Outcome = "ok"
    partition: int = 0


class Verdict(NamedTuple):
    """What is wrong with a history; all are empty if nothing is.

    Attributes:
        lost: Events that were published or stored, and have neither an output nor a dead letter.
        repeated: Outputs too many, by event.
        stored_twice: Copies too many in the topic, by event.
        invented: Events that appeared though they were never published, or their publish was refused.
        unhandled: Events with an output that were in no call of the handler.
        reordered: Kind of operation, and two events of one key: the first came after the second, and should
            not have.
        dead: Events with a dead letter.
    """

    lost: list[str]
    repeated: dict[str, int]
    stored_twice: dict[str, int]
    invented: list[str]
    unhandled: list[str]
    reordered: list[tuple[Kind, str, str]]
    dead: list[str]

    def __str__(self) -> str:
        found = {name: value for name, value in self._asdict().items() if value}
        return (
            "; ".join(f"{len(value)} {name}: {str(value)[:400]}" for name, value in found.items()) or "valid"
        )


def check(history: Iterable[Operation], *, ordered: bool) -> Verdict:
    """Check a history.

    If it has no operation of the kind `store`, or `handle`, that kind was not observed.

    Args:
        history: The operations.
        ordered: Whether the events of a key must be handled and completed in the order of their topic.
    """
    of: dict[Kind, list[Operation]] = {kind: [] for kind in get_args(Kind)}
    for operation in history:
        of[operation.kind].append(operation)
    published = Counter(op.id for op in of["publish"] if op.outcome != "fail")
    stored = Counter(op.id for op in of["store"]) or published
    outputs = Counter(op.id for op in of["complete"])
    handled, dead = {op.id for op in of["handle"]}, {op.id for op in of["dead_letter"]}
    expected = [op.id for op in of["publish"] if op.outcome == "ok"] + [op.id for op in of["store"]]
    appeared = [*stored, *outputs, *handled, *dead]
    reordered = _stored_out_of_order(of["publish"], of["store"])
    if ordered:
        places = _places(of["store"] or [op for op in of["publish"] if op.outcome == "ok"])
        calls = sorted(of["handle"], key=lambda op: op.invoked)
        reordered += _out_of_order("handle", calls, places)
        reordered += _out_of_order("complete", of["complete"], places)
    return Verdict(
        lost=[id_ for id_ in dict.fromkeys(expected) if id_ not in outputs and id_ not in dead],
        # An output of an event that was not stored is invented, not repeated.
        repeated={id_: n - max(stored[id_], 1) for id_, n in outputs.items() if n > max(stored[id_], 1)},
        stored_twice={id_: n - published[id_] for id_, n in stored.items() if 0 < published[id_] < n},
        invented=[id_ for id_ in dict.fromkeys(appeared) if id_ not in published],
        unhandled=[id_ for id_ in outputs if id_ not in handled] if handled else [],
        reordered=reordered,
        dead=sorted(dead),
    )


def _stored_out_of_order(
    publishes: Sequence[Operation], stores: Sequence[Operation]
) -> list[tuple[Kind, str, str]]:
    """Find events that were stored after others of their key, and were published before them.

    An event was published before another if it was earlier in the same call that succeeded, or if its call
    had succeeded when the call of the other one began.
    """
    calls = {op.id: (op, position) for position, op in enumerate(publishes)}
    latest: dict[tuple[str, int], tuple[Operation, int]] = {}  # by key and partition: published last, so far
    seen: set[str] = set()
    wrong: list[tuple[Kind, str, str]] = []
    for store in stores:
        if store.id in seen or store.id not in calls:
            continue
        seen.add(store.id)
        this, position = calls[store.id]
        group = store.key, store.partition
        before, place = latest.get(group, (this, position))
        if this.ended is not None and position < place:
            same_call = this.invoked == before.invoked and before.ended is not None
            if same_call or this.ended <= before.invoked:
                wrong.append(("store", this.id, before.id))
        if position >= place:
            latest[group] = this, position
    return wrong


def _places(operations: Iterable[Operation]) -> Mapping[str, tuple[tuple[str, int], int]]:
    """The key and partition of each event, and its place there."""
    places: dict[str, tuple[tuple[str, int], int]] = {}
    for place, op in enumerate(operations):
        places.setdefault(op.id, ((op.key, op.partition), place))
    return places


def _out_of_order(
    kind: Kind, operations: Iterable[Operation], places: Mapping[str, tuple[tuple[str, int], int]]
) -> list[tuple[Kind, str, str]]:
    """Find events whose first operation came after the first one of an event behind them."""
    latest: dict[tuple[str, int], tuple[int, str]] = {}
    wrong: list[tuple[Kind, str, str]] = []
    for id_ in dict.fromkeys(op.id for op in operations):
        if id_ not in places:
            continue
        group, place = places[id_]
        before = latest.get(group, (-1, ""))
        if place < before[0]:
            wrong.append((kind, id_, before[1]))
        latest[group] = max(before, (place, id_))
    return wrong
