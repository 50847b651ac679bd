"""Records in batches: all of them, in order, and no batch too large."""

from __future__ import annotations

from collections import defaultdict

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.kafka.batches import Packer
from eventml.backends.kafka.wire import HeaderEncoder
from eventml.records import Record

CAPACITY, LIMIT = 2_000, 700
HEADERS = {"ce_type": "t", "content-type": "application/json"}

records = st.tuples(
    st.sampled_from(["free", "narrow"]),
    st.integers(0, 2_500).map(bytes),
    st.none() | st.binary(max_size=50),
    st.text(max_size=20),
    st.sampled_from([{}, HEADERS]),
).map(lambda fields: Record(*fields))


def packed(given_records: list[Record], partitions: list[int]) -> Packer:
    packer = Packer(
        lambda: BatchBuilder(CAPACITY, 0),
        capacity=CAPACITY,
        limits={"narrow": LIMIT},
        headers=HeaderEncoder(),
    )
    places = defaultdict(list)
    for position, (record, partition) in enumerate(zip(given_records, partitions, strict=False)):
        places[record.topic, partition].append(position)
    packer.pack(given_records, places)
    return packer


@given(st.lists(records, max_size=25), st.lists(st.integers(0, 2), min_size=25, max_size=25))
def test_each_record_is_in_one_batch_or_too_large(given_records: list[Record], partitions: list[int]) -> None:
    packer = packed(given_records, partitions)
    found = []
    for (topic, partition), queue in packer.batches.items():
        positions = [position for batch in queue for position in batch.positions]
        assert positions == sorted(positions), "order is kept in each partition"
        for batch in queue:
            assert batch.builder.record_count() == len(batch.positions)
            assert len(batch.builder._build()) <= (LIMIT if topic == "narrow" else CAPACITY)
        for position in positions:
            assert (given_records[position].topic, partitions[position]) == (topic, partition)
        found += positions
    assert sorted([*found, *packer.too_large]) == list(range(len(given_records)))


@given(st.lists(records, max_size=25))
def test_what_is_called_too_large_is(given_records: list[Record]) -> None:
    packer = packed(given_records, [0] * len(given_records))
    for position, why in packer.too_large.items():
        record = given_records[position]
        limit, setting = (
            (LIMIT, "max.message.bytes") if record.topic == "narrow" else (CAPACITY, "max_request_size")
        )
        assert setting in why
        assert str(limit) in why
        alone = BatchBuilder(10 * CAPACITY, 0)
        headers = HeaderEncoder().encode(record.headers)
        if record.id:
            headers = [*headers, ("ce_id", record.id.encode())]
        alone.append(timestamp=None, key=record.key, value=record.value, headers=headers)
        assert len(alone._build()) > limit


def test_a_batch_on_the_wire_is_what_was_put_in() -> None:
    record = Record("free", b"value", b"key", "id-1", HEADERS)
    [queue] = packed([record], [0]).batches.values()
    wire = MemoryRecords(bytes(queue[0].builder._build()))
    [found] = list(wire.next_batch())
    assert (found.key, found.value) == (b"key", b"value")
    assert dict(found.headers) == {"ce_type": b"t", "content-type": b"application/json", "ce_id": b"id-1"}
