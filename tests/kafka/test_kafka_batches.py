"""Records in batches: all of them, in order, none too large, and keys where Kafka's own clients send them."""

from __future__ import annotations

from functools import partial

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.kafka.packing import PackedRecords, Packer, RecordBatch, TopicPartitions
from eventml.backends.kafka.wire import HeaderValues, kafka_headers, key_hash, murmur2
from eventml.records import TOMBSTONE, Record

CAPACITY, LIMIT = 2_000, 700
HEADERS = {"ce_type": "t", "content-type": "application/json"}

records = st.tuples(
    st.sampled_from(["free", "narrow"]),
    st.integers(0, 2_500).map(bytes),
    st.none() | st.binary(max_size=50),
    st.text(max_size=20),
    st.sampled_from([{}, HEADERS]),
).map(lambda fields: Record(*fields))


new_batch = partial(RecordBatch, compression=0, transactional=False)


def pack(given_records: list[Record]) -> PackedRecords:
    packer = Packer(CAPACITY)
    packer.limits["narrow"] = LIMIT
    topics = dict.fromkeys(["free", "narrow"], TopicPartitions(3, range(3)))
    return packer.pack(new_batch, given_records, range(len(given_records)), topics)


@given(st.lists(records, max_size=25))
def test_each_record_is_in_one_batch_or_too_large(given_records: list[Record]) -> None:
    packed = pack(given_records)
    found = []
    for (topic, partition), queue in packed.batches.items():
        positions = [position for batch in queue for position in batch.positions]
        assert positions == sorted(positions), "order is kept in each partition"
        for batch in queue:
            assert batch.builder.record_count() == len(batch.positions)
            assert len(batch.builder._build()) <= (LIMIT if topic == "narrow" else CAPACITY)
        for position in positions:
            record = given_records[position]
            assert record.topic == topic
            assert record.key is None or key_hash(record.key) % 3 == partition
        found += positions
    assert sorted([*found, *packed.refused]) == list(range(len(given_records)))


@given(st.lists(records, max_size=25))
def test_a_record_that_is_too_large_names_the_limit(given_records: list[Record]) -> None:
    for position, why in pack(given_records).refused.items():
        record = given_records[position]
        limit, setting = (
            (LIMIT, "max.message.bytes") if record.topic == "narrow" else (CAPACITY, "max_request_size")
        )
        assert setting in why
        assert str(limit) in why
        alone = BatchBuilder(10 * CAPACITY, 0)
        headers = kafka_headers(record.headers)
        if record.id:
            headers = [*headers, ("ce_id", record.id.encode())]
        alone.append(timestamp=None, key=record.key, value=record.value, headers=headers)
        assert len(alone._build()) > limit


@given(st.lists(records, max_size=25))
def test_batches_contain_the_records_as_aiokafka_encodes_them(given_records: list[Record]) -> None:
    """Of all lengths of keys, values and offsets, with and without an id and headers."""
    for queue in pack(given_records).batches.values():
        for batch in queue:
            expected = BatchBuilder(10 * CAPACITY, 0)
            for record in (given_records[position] for position in batch.positions):
                headers = kafka_headers(record.headers)
                if record.id:
                    headers = [*headers, ("ce_id", record.id.encode())]
                expected.append(timestamp=1, key=record.key, value=record.value, headers=headers)
            assert encoded(batch.builder._build()) == encoded(expected._build())


def encoded(batch: bytearray) -> bytes:
    """The records of a batch, which must be sound, without its header."""
    assert MemoryRecords(bytes(batch)).next_batch().validate_crc()
    return bytes(batch[61:])


@pytest.mark.parametrize("compression", range(5))
def test_a_batch_contains_the_record_that_was_packed(compression: int) -> None:
    some = [Record("free", b"value" * 300, b"key", f"id-{n}", HEADERS) for n in range(300)]
    batch = Packer(1 << 20).pack(
        partial(RecordBatch, compression=compression, transactional=False),
        some,
        range(300),
        {"free": TopicPartitions(1, [0])},
    )
    [queue] = batch.batches.values()
    size = queue[0].builder.size()
    sent = queue[0].builder._build()
    assert queue[0].builder._build() is sent, "a batch is sent again as it was"
    assert (len(sent) < size) == (compression > 0)
    found = list(MemoryRecords(bytes(sent)).next_batch())
    assert [record.offset for record in found] == list(range(300))
    assert (found[1].key, found[1].value) == (b"key", b"value" * 300)
    headers = {"ce_type": b"t", "content-type": b"application/json", "ce_id": b"id-299"}
    assert dict(found[-1].headers) == headers


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
    assert murmur2(key) == aiokafka_murmur2(key)


def test_records_without_a_key_go_to_one_writable_partition_after_the_other() -> None:
    packer, topics = Packer(CAPACITY), {"t": TopicPartitions(8, [1, 4, 6])}
    some = [Record("t", b"1"), Record("t", b"2"), Record("t", b"3", b"key")]
    keyed = ("t", key_hash(b"key") % 8)
    seen = set()
    for _ in range(3):
        found = packer.partitions(some, range(3), topics)
        assert 2 in found.pop(keyed)
        [(partition, positions)] = found.items() or [(keyed, [0, 1])]
        assert positions == [0, 1]
        seen.add(partition)
    assert seen == {("t", 1), ("t", 4), ("t", 6)}


def test_records_without_a_key_go_to_some_partition_if_none_has_a_leader() -> None:
    [partition] = Packer(CAPACITY).partitions([Record("t", b"1")], [0], {"t": TopicPartitions(3, [])})
    assert partition[1] in range(3)


@pytest.mark.parametrize("length", [0, 63, 64, 8_191, 8_192, 8_193, 70_001])
def test_every_length_is_encoded_as_aiokafka_does(length: int) -> None:
    headers = {"name" * (length // 4): HeaderValues([None, b"v" * length, None]), "": "text"}
    some = [
        Record("t", b"v" * length, b"k" * length, "i" * length, headers),
        Record("t", TOMBSTONE, b"", "", headers),
        Record("t", b"", None, "id"),
    ]
    some *= 1 if length > 64 else 3_000  # and offsets of more than 8,192
    new, topics = partial(RecordBatch, compression=0, transactional=False), {"t": TopicPartitions(1, [0])}
    [queue] = Packer(1 << 24).pack(new, some, range(len(some)), topics).batches.values()
    expected = BatchBuilder(1 << 24, 0)
    for record in some:
        value = None if record.value is TOMBSTONE else record.value
        own = kafka_headers(record.headers)
        if record.id:
            own.append(("ce_id", record.id.encode()))
        expected.append(timestamp=1, key=record.key, value=value, headers=own)
    assert encoded(queue[0].builder._build()) == encoded(expected._build())
