"""The checker of the soak: sound histories pass, and each kind of fault in a history is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.history import Kind, Operation, Outcome, Verdict, check
from tests.chaos.traffic import Call, Traffic

if TYPE_CHECKING:
    from pathlib import Path

SOUND = check([], ordered=True)


def faults(verdict: Verdict) -> set[str]:
    return {name for name, found in verdict._asdict().items() if found}


def operations(kind: Kind, *ids: str, key: str = "k", **fields: Any) -> list[Operation]:
    return [Operation(kind, id_, key, **fields) for id_ in ids]


def sound(*ids: str) -> list[Operation]:
    """A history in which events of one key were published one by one, stored, handled and completed."""
    published = [Operation("publish", id_, "k", float(n), n + 0.5) for n, id_ in enumerate(ids)]
    handled = [Operation("handle", id_, "k", 100.0 + n) for n, id_ in enumerate(ids)]
    return [*published, *operations("store", *ids), *handled, *operations("complete", *ids)]


def without(history: list[Operation], kind: Kind, id_: str) -> list[Operation]:
    return [op for op in history if (op.kind, op.id) != (kind, id_)]


def with_publish(history: list[Operation], id_: str, **changes: Any) -> list[Operation]:
    return [op._replace(**changes) if (op.kind, op.id) == ("publish", id_) else op for op in history]


UNKNOWN: dict[str, Any] = {"outcome": "unknown", "ended": None}
ABC = sound("a", "b", "c")

GOOD = {
    "nothing": [],
    "all is well": ABC,
    "only publishes and outputs were observed": [op for op in ABC if op.kind in ("publish", "complete")],
    "an unknown publish that appeared": with_publish(ABC, "b", **UNKNOWN),
    "an unknown publish that did not appear": [
        *sound("a"),
        Operation("publish", "b", outcome="unknown"),
    ],
    "a refused publish": [*sound("a"), Operation("publish", "b", outcome="fail")],
    "an unknown publish that was stored late": [
        *with_publish([op for op in sound("a", "b") if op.kind == "publish"], "a", **UNKNOWN),
        *(op for op in sound("b", "a") if op.kind != "publish"),
    ],
    "an event was handled twice, and has one output": [*ABC, *operations("handle", "a", invoked=200.0)],
    "publishes that overlapped, stored the other way round": [
        *operations("publish", "a", invoked=0.0, ended=3.0),
        *operations("publish", "b", invoked=1.0, ended=2.0),
        *(op for op in sound("b", "a") if op.kind != "publish"),
    ],
    "an unknown publish that was repeated with the same id, and stored twice": [
        *operations("publish", "a", **UNKNOWN),
        *operations("publish", "a", invoked=1.0, ended=2.0),
        *operations("store", "a", "a"),
        *operations("handle", "a", "a"),
        *operations("complete", "a", "a"),
    ],
}
BAD: dict[str, tuple[str, list[Operation]]] = {
    "an acknowledged publish that was not stored": (
        "lost",
        [op for op in ABC if op.id != "b" or op.kind == "publish"],
    ),
    "a stored event without an output": ("lost", without(ABC, "complete", "b")),
    "an unknown publish that was stored and has no output": (
        "lost",
        without(with_publish(ABC, "b", **UNKNOWN), "complete", "b"),
    ),
    "an acknowledged publish without an output, where stores were not observed": (
        "lost",
        [op for op in without(ABC, "complete", "b") if op.kind != "store"],
    ),
    "two outputs": ("repeated", [*ABC, *operations("complete", "b")]),
    "stored twice": ("stored_twice", [*ABC, *operations("store", "b")]),
    "an unknown publish that was stored twice": (
        "stored_twice",
        [*with_publish(ABC, "b", **UNKNOWN), *operations("store", "b")],
    ),
    "an output of an event that was never published": (
        "invented",
        [op for op in ABC if op.id != "c" or op.kind != "publish"],
    ),
    "a refused publish that appeared": ("invented", with_publish(ABC, "c", outcome="fail", ended=None)),
    "an output without a call": ("unhandled", without(ABC, "handle", "c")),
    "stored in another order than published": (
        "reordered",
        [op for op in ABC if op.kind == "publish"]
        + [op for op in sound("b", "a", "c") if op.kind != "publish"],
    ),
    "an unknown publish that was stored before an earlier acknowledged one": (
        "reordered",
        [
            *with_publish([op for op in sound("a", "b") if op.kind == "publish"], "b", **UNKNOWN),
            *(op for op in sound("b", "a") if op.kind != "publish"),
        ],
    ),
    "stored in another order than in the call": (
        "reordered",
        [
            *operations("publish", "a", "b", invoked=0.0, ended=1.0),
            *(op for op in sound("b", "a") if op.kind != "publish"),
        ],
    ),
    "handled in another order than stored": (
        "reordered",
        [op for op in ABC if op.kind != "handle"]
        + [Operation("handle", id_, "k", 100.0 - n) for n, id_ in enumerate("abc")],
    ),
    "completed in another order than stored": (
        "reordered",
        [op for op in ABC if op.kind != "complete"] + operations("complete", "a", "c", "b"),
    ),
    "a dead letter": ("dead", [*without(ABC, "complete", "b"), *operations("dead_letter", "b")]),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_sound_history_passes(name: str) -> None:
    assert check(GOOD[name], ordered=True) == SOUND


@pytest.mark.parametrize("name", BAD)
def test_a_fault_is_found_and_named(name: str) -> None:
    fault, history = BAD[name]
    assert faults(check(history, ordered=True)) == {fault}


def test_order_is_not_asked_of_a_backend_without_it() -> None:
    history = [op for op in ABC if op.kind != "complete"] + operations("complete", "c", "b", "a")
    assert check(history, ordered=False) == SOUND
    assert faults(check(history, ordered=True)) == {"reordered"}


def test_a_topic_that_grew_keeps_order_within_a_partition_only() -> None:
    history = [op for op in ABC if op.kind in ("publish", "complete")]
    history += operations("store", "b", "c", partition=8) + operations("store", "a")
    history += [Operation("handle", id_, "k", 1.0) for id_ in "bac"]
    assert check(history, ordered=True) == SOUND


@st.composite
def sound_histories(draw: st.DrawFn) -> list[Operation]:
    """Calls of a publisher, and a broker and workers without faults that deliver some events twice."""
    chance = draw(st.randoms(use_true_random=False))
    publishes: list[Operation] = []
    outcomes: list[Outcome] = ["ok", "fail", "unknown"]
    sizes = draw(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(outcomes)), min_size=1))
    for call, (size, outcome) in enumerate(sizes):
        for _ in range(size):
            n = len(publishes)
            ended = call + 0.5 if outcome == "ok" else None
            publishes.append(Operation("publish", str(n), f"k{n % 3}", float(call), ended, outcome))
    kept = [
        op for op in publishes if op.outcome == "ok" or (op.outcome == "unknown" and chance.random() < 0.5)
    ]
    stores = [Operation("store", op.id, op.key, partition=int(op.key[1])) for op in kept]
    handles = [Operation("handle", op.id, op.key, 100.0 + n) for n, op in enumerate(stores)]
    handles += [
        op._replace(invoked=op.invoked + chance.random() * 9) for op in handles if chance.random() < 0.2
    ]
    completes = [Operation("complete", op.id, op.key) for op in stores]
    completes.sort(key=lambda op: op.key)  # topics keep the order of a key, and no other
    chance.shuffle(handles)
    return [*publishes, *stores, *handles, *completes]


@given(sound_histories())
def test_histories_without_a_fault_pass(history: list[Operation]) -> None:
    assert check(history, ordered=True) == SOUND


@given(sound_histories(), st.data())
def test_a_history_with_a_fault_does_not_pass(history: list[Operation], data: st.DataObject) -> None:
    completes = [op for op in history if op.kind == "complete"]
    if not completes:
        return
    victim = data.draw(st.sampled_from(completes))
    rest = [op for op in history if op != victim]
    after = [op for op in completes if op.key == victim.key and int(op.id) > int(victim.id)]
    broken = {
        "lost": rest,
        "repeated": [*history, victim],
        "stored_twice": [*history, victim._replace(kind="store")],
        "invented": [*history, victim._replace(kind="complete", id="never published")],
        "unhandled": [op for op in history if (op.kind, op.id) != ("handle", victim.id)],
        "reordered": [*rest, victim],
        "dead": [*rest, victim._replace(kind="dead_letter")],
    }
    if not after:
        del broken["reordered"]
    if len({op.id for op in history if op.kind == "handle"}) < 2:
        del broken["unhandled"]  # without any call, calls were not observed
    fault = data.draw(st.sampled_from(sorted(broken)))
    assert fault in faults(check(broken[fault], ordered=True))


def test_a_fault_has_recovered_when_what_was_published_around_its_end_is_handled(tmp_path: Path) -> None:
    traffic = Traffic("memory://", "memory://", "app", tmp_path, rate=1)
    traffic.calls = [Call(n, 1, invoked=10.0 * n, ended=10.0 * n + 1, refused=()) for n in range(4)]
    traffic.calls.insert(1, Call(99, 1, invoked=2.0, ended=None, refused=()))  # it may not be in the topic
    handled = [
        ("ok", 4.0, [0]),
        ("invoked", 12.0, [1]),
        ("ok", 13.0, [1]),
        ("ok", 60.0, [2]),
        ("ok", 50.0, [2]),
    ]
    (tmp_path / "1.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, [*handled, ("ok", 32.0, [3])])))
    assert traffic.recoveries([0.5, 3.0, 13.5, 25.0, 70.0]) == [3.5, 10.0, 36.5, 25.0, 0.0]
