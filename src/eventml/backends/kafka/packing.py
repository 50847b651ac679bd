"""Choose the partitions of records, and pack them into the batches that are sent. No I/O.

Records are encoded here and not by aiokafka: those of one topic have few distinct headers, which it would
encode anew for each record. The format: https://kafka.apache.org/documentation/#recordbatch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from eventml.backends.kafka.wire import CACHED_HEADERS, ID, LARGEST_CACHED, Partition, kafka_headers, key_hash
from eventml.records import TOMBSTONE, Record

_HEADER: Final = _DefaultRecordBatchBuilderPy.HEADER_STRUCT.size  # bytes, of a batch
_NULL: Final = b"\1"  # the length -1: no bytes follow
_NEW: Final = b"\0\0"  # a record without attributes, with the timestamp of its batch


class _Varints(dict[int, bytes]):
    """The numbers from 0 on in Kafka's variable length. Large ones are not kept."""

    def __missing__(self, number: int) -> bytes:
        rest, found = number << 1, bytearray()
        while rest > 0x7F:  # noqa: PLR2004 - seven bits in each byte
            found.append(rest & 0x7F | 0x80)
            rest >>= 7
        found.append(rest)
        return bytes(found)


_VARINT: Final = _Varints()
_VARINT.update({number: _VARINT[number] for number in range(8_192)})


class TopicPartitions(NamedTuple):
    """How many partitions a topic has, and the numbers of those that have a leader now."""

    total: int
    writable: Sequence[int]


class RecordBatch(_DefaultRecordBatchBuilderPy):  # type: ignore[misc] # aiokafka has no types
    """A complete batch of encoded records, in place of aiokafka's BatchBuilder."""

    def __init__(self, records: Sequence[bytes], compression: int, *, transactional: bool) -> None:
        super().__init__(2, compression, transactional, -1, -1, 0, 0)
        self._first_timestamp = self._max_timestamp = int(time.time() * 1000)
        self._last_offset = len(records) - 1
        self._num_records = len(records)
        self._buffer += b"".join(records)
        self._is_built = False

    def record_count(self) -> int:
        """The number of records."""
        return self._num_records

    def closed(self) -> bool:
        """It takes no more records."""
        return True

    def close(self) -> None:
        """Does nothing: it is always closed."""

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self.set_producer_state(producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytearray:
        """The bytes to send, the same for each attempt."""
        if not self._is_built:
            self.build()
            self._is_built = True
        return self._buffer  # type: ignore[no-any-return] # aiokafka has no types


class Batch(NamedTuple):
    """Records of one partition that are sent together, and their positions in the call to `pack`."""

    builder: RecordBatch
    positions: list[int]


class PackedRecords(NamedTuple):
    """Batches by partition, in the order in which to send them; and why records are in none, by position."""

    batches: dict[Partition, deque[Batch]]
    refused: dict[int, str]


class _EncodedHeaders(NamedTuple):
    """The bytes of the headers of a record without an id; and those up to the value of the id."""

    without_id: bytes
    before_id: bytes


class HeaderEncoder:
    """Encodes headers, once for each mapping that records share."""

    def __init__(self) -> None:
        self._encoded: dict[int, tuple[Mapping[str, str], _EncodedHeaders]] = {}

    def encode(self, headers: Mapping[str, str]) -> _EncodedHeaders:
        """The headers without the id, which differs from record to record."""
        # The key is the identity of the mapping, which is kept with its bytes: another cannot get its id().
        known = self._encoded.get(id(headers))
        if known is not None:
            return known[1]
        if len(self._encoded) >= CACHED_HEADERS:
            self._encoded.clear()
        found = kafka_headers(headers)
        encoded = b"".join(
            _sized(name.encode()) + (_NULL if value is None else _sized(value)) for name, value in found
        )
        made = _EncodedHeaders(
            _VARINT[len(found)] + encoded, _VARINT[len(found) + 1] + encoded + _sized(ID.encode())
        )
        if len(encoded) <= LARGEST_CACHED:
            self._encoded[id(headers)] = headers, made
        return made


def _sized(raw: bytes) -> bytes:
    return _VARINT[len(raw)] + raw


class Packer:
    """Chooses the partitions of records and packs them into batches of at most `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._headers = HeaderEncoder()
        self._calls = 0
        self.limits: dict[str, int] = {}
        """Topics known to take less than `capacity` bytes in a batch, and how many."""

    def pack(
        self,
        new_batch: Callable[[Sequence[bytes]], RecordBatch],
        records: Sequence[Record],
        positions: Iterable[int],
        topics: Mapping[str, TopicPartitions],
    ) -> PackedRecords:
        """Pack the records at these positions; the records of a partition stay in their order.

        `new_batch` makes a batch of encoded records.
        """
        packed = PackedRecords({}, {})
        for partition, chosen in self.partitions(records, positions, topics).items():
            batches = self._fill(new_batch, partition[0], records, chosen, packed.refused)
            if batches:
                packed.batches[partition] = deque(batches)
        return packed

    def partitions(
        self, records: Sequence[Record], positions: Iterable[int], topics: Mapping[str, TopicPartitions]
    ) -> dict[Partition, list[int]]:
        """The positions of the records by the partition that each goes to.

        A record with a key goes to the key's partition, even if that has no leader now: order per key depends
        on it. All records of a call without a key go to one writable partition, the next one at each call:
        large batches, and an even load over time.
        """
        self._calls += 1
        found: dict[Partition, list[int]] = {}
        by_number: dict[int, list[int]] = {}  # positions of the topic at hand
        by_topic: dict[str, dict[int, list[int]]] = {}
        topic, total, keyless = "", 1, 0
        for position in positions:
            record = records[position]
            if record.topic is not topic:
                topic = record.topic
                total, writable = topics[topic]
                keyless = writable[self._calls % len(writable)] if writable else self._calls % total
                by_number = by_topic.setdefault(topic, {})
            key = record.key
            if key is None:
                number = keyless
            else:
                number = (key_hash if len(key) <= LARGEST_CACHED else key_hash.__wrapped__)(key) % total
            if number in by_number:
                by_number[number].append(position)
            else:
                by_number[number] = found[topic, number] = [position]
        return found

    def _fill(
        self,
        new_batch: Callable[[Sequence[bytes]], RecordBatch],
        topic: str,
        records: Sequence[Record],
        positions: Iterable[int],
        refused: dict[int, str],
    ) -> list[Batch]:
        most = min(self.limits.get(topic, self._capacity), self._capacity)
        varint, encode = _VARINT, self._headers.encode
        shared: Mapping[str, str] | None = None
        without_id = before_id = b""
        batches: list[Batch] = []
        packed: list[int] = []
        encoded: list[bytes] = []
        size = _HEADER
        for position in positions:
            record = records[position]
            if record.headers is not shared:
                shared = record.headers
                without_id, before_id = encode(shared)
            key, value, id_ = record.key, record.value, record.id.encode(errors="surrogateescape")
            fields = b"%b%b%b%b" % (
                _NULL if key is None else varint[len(key)] + key,
                _NULL if value is TOMBSTONE else varint[len(value)] + value,
                before_id + varint[len(id_)] if id_ else without_id,
                id_,
            )
            number = varint[len(packed)]
            made = b"%b%b%b%b" % (varint[2 + len(number) + len(fields)], _NEW, number, fields)
            if size + len(made) > most:
                if packed:
                    batches.append(Batch(new_batch(encoded), packed))
                    packed, encoded, size = [], [], _HEADER
                    made = b"%b%b%b%b" % (varint[3 + len(fields)], _NEW, varint[0], fields)
                if size + len(made) > most:
                    refused[position] = self._too_large(topic, size + len(made))
                    continue
            packed.append(position)
            encoded.append(made)
            size += len(made)
        if packed:
            batches.append(Batch(new_batch(encoded), packed))
        return batches

    def _too_large(self, topic: str, size: int) -> str:
        limit = self.limits.get(topic)
        most = min(limit or self._capacity, self._capacity)
        setting = "the topic's max.message.bytes" if limit else "backend.max_request_size"
        return f"a record of {size} bytes is too large for topic {topic}, which takes {most} ({setting})"
