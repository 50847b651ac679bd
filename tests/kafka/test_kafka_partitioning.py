"""Keys go where Kafka's own clients put them."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as theirs
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.kafka.batches import Partitions, spread
from eventml.backends.kafka.partitioning import Partitioner, murmur2
from eventml.records import Record


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("abc", 479470107),
    ],
)
def test_hashes_are_those_of_kafkas_java_client(key: str, signed: int) -> None:
    assert murmur2(key.encode()) == signed % 2**32


@given(st.binary(max_size=300))
def test_hashes_are_those_of_aiokafka(key: bytes) -> None:
    assert murmur2(key) == theirs(key)


def test_more_keys_than_are_remembered_change_nothing() -> None:
    partitioner = Partitioner()
    first = partitioner.hash(b"key")
    for number in range(70_000):
        partitioner.hash(b"%d" % number)
    assert partitioner.hash(b"key") == first


def test_records_without_a_key_go_where_they_can_be_written_in_turn() -> None:
    partitioner, topic = Partitioner(), {"t": Partitions(8, [1, 4, 6])}
    records = [Record("t", b"1"), Record("t", b"2"), Record("t", b"3", b"key")]
    keyed = ("t", partitioner.hash(b"key") % 8)
    seen = set()
    for _ in range(3):
        found = spread(records, range(3), topic, partitioner)
        assert 2 in found.pop(keyed)
        [(place, positions)] = found.items() or [(keyed, [0, 1])]
        assert positions == [0, 1]
        seen.add(place)
    assert seen == {("t", 1), ("t", 4), ("t", 6)}


def test_with_no_leader_at_all_they_go_somewhere() -> None:
    [place] = spread([Record("t", b"1")], [0], {"t": Partitions(3, [])}, Partitioner())
    assert place[1] in range(3)
