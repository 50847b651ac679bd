"""Records as Kafka carries them: their headers, their partitions, and the batches that are sent. No I/O.

Records follow CloudEvents' binary binding, with headers around a plain value. Records of one topic have few
distinct headers, so each set is converted once, in either direction.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from eventml.records import NO_HEADERS, TOMBSTONE, Delivery, Record, foreign_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


Header = tuple[str, bytes | None]

Partition = tuple[str, int]
"""A topic and the number of one of its partitions; equal to aiokafka's TopicPartition."""

ID: Final = "ce_id"
_OVERHEAD: Final = 40  # bytes of a record at most, beside its key, value and headers
_HEADER_OVERHEAD: Final = 10  # bytes of a header at most, beside its name and value
_CACHED_HEADERS: Final = 1_024
_CACHED_KEYS: Final = 65_536
_LARGEST_CACHED: Final = 4_096  # bytes of headers, or of a key: publishers choose the size
_MASK: Final = 0xFFFFFFFF
_WORDS: Final = [Struct(f"<{count}I") for count in range(17)]


class HeaderValues(str):
    """The last value of the headers of one name, as text. All values, nulls among them, travel with it."""

    __slots__ = ("values",)
    values: Sequence[bytes | None]

    def __new__(cls, values: Sequence[bytes | None]) -> Self:
        """The text of the last value."""
        found = super().__new__(cls, _text(values[-1]))
        found.values = values
        return found

    def __reduce__(self) -> tuple[type[Self], tuple[Sequence[bytes | None]]]:
        return type(self), (self.values,)


class HeaderEncoder:
    """Encodes headers, once for each mapping that records share."""

    def __init__(self) -> None:
        self._encoded: dict[int, tuple[Mapping[str, str], list[Header]]] = {}

    def encode(self, headers: Mapping[str, str]) -> list[Header]:
        """The headers without the id, which differs from record to record. Do not change the result."""
        # The key is the identity of the mapping, which is kept with its list: another cannot get its id().
        known = self._encoded.get(id(headers))
        if known is None:
            if len(self._encoded) >= _CACHED_HEADERS:
                self._encoded.clear()
            encoded = [
                (name, raw)
                for name, value in headers.items()
                for raw in getattr(value, "values", None) or (value.encode(errors="surrogateescape"),)
            ]
            known = headers, encoded
            if sum(len(value or b"") for _, value in encoded) <= _LARGEST_CACHED:
                self._encoded[id(headers)] = known
        return known[1]


class DeliveryDecoder:
    """Makes deliveries of aiokafka's records; records with equal headers share one mapping."""

    def __init__(self) -> None:
        self._decoded: dict[tuple[Header, ...], Mapping[str, str]] = {}
        self._last_raw: Sequence[Header] = ()  # the headers of the record before
        self._last: Mapping[str, str] = NO_HEADERS

    def deliveries(self, partition: Partition, records: Iterable[Any], start: int) -> list[Delivery]:
        """The deliveries of a batch, from an offset on. One without an id gets `topic/partition/offset`."""
        topic, index = partition
        last_raw, last = self._last_raw, self._last
        found: list[Delivery] = []
        for record in records:
            offset, headers, id_, shared = record.offset, record.headers, "", NO_HEADERS
            if offset < start:
                continue
            if headers:
                name, value = headers[-1]
                if name == ID:  # the position at which eventml writes it
                    headers, id_ = headers[:-1], _text(value)
                else:
                    headers, id_ = _split_id(headers)
                if headers != last_raw:
                    last, last_raw = self._headers(headers), headers
                shared = last
            key, data = record.key, record.value
            if data is None:
                data = TOMBSTONE
            made = Record(topic, data, key, id_ or foreign_id(topic, index, offset), shared)
            found.append(Delivery(made, index, offset, record.timestamp / 1000))
        self._last_raw, self._last = last_raw, last
        return found

    def _headers(self, headers: Sequence[Header]) -> Mapping[str, str]:
        if not headers:
            return NO_HEADERS
        raw = tuple(headers)
        known = self._decoded.get(raw)
        if known is None:
            if len(self._decoded) >= _CACHED_HEADERS:
                self._decoded.clear()
            known = {name: _text(value) for name, value in raw}
            if len(known) < len(raw) or None in dict(raw).values():
                values: dict[str, list[bytes | None]] = {name: [] for name in known}
                for name, value in raw:
                    values[name].append(value)
                known |= {
                    n: HeaderValues(some) for n, some in values.items() if len(some) > 1 or some[0] is None
                }
            if sum(len(value or b"") for _, value in raw) <= _LARGEST_CACHED:
                self._decoded[raw] = known
        return known


def _split_id(headers: Sequence[Header]) -> tuple[Sequence[Header], str]:
    """The headers without the id, and the id, which may be at any position or missing."""
    for position, (name, value) in enumerate(headers):
        if name == ID:
            return (*headers[:position], *headers[position + 1 :]), _text(value)
    return headers, ""


def _text(value: bytes | None) -> str:
    """Bytes that are not UTF-8 survive the way back to bytes."""
    return "" if value is None else value.decode(errors="surrogateescape")


@lru_cache(_CACHED_KEYS)
def key_hash(key: bytes) -> int:
    """The key's hash, not negative. Modulo the number of partitions it is the partition."""
    return murmur2(key) & 0x7FFFFFFF


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed of Kafka's `Utils.murmur2` (Austin Appleby, public domain)."""
    length = len(data)
    words, rest = length >> 2, length & 3
    unpack = _WORDS[words] if words < len(_WORDS) else Struct(f"<{words}I")
    h = 0x9747B28C ^ length
    for word in unpack.unpack_from(data):
        k = word * 0x5BD1E995 & _MASK
        h = (h * 0x5BD1E995 & _MASK) ^ ((k ^ (k >> 24)) * 0x5BD1E995 & _MASK)
    if rest:
        h = (h ^ int.from_bytes(data[length - rest :], "little")) * 0x5BD1E995 & _MASK
    h = (h ^ (h >> 13)) * 0x5BD1E995 & _MASK
    return h ^ (h >> 15)


class TopicPartitions(NamedTuple):
    """How many partitions a topic has, and the numbers of those that have a leader now."""

    total: int
    writable: Sequence[int]


class Batch(NamedTuple):
    """Records of one partition that are sent together, and their positions in the call to `pack`."""

    builder: Any  # aiokafka's. It takes its first record whatever the size.
    positions: list[int]


class PackedRecords(NamedTuple):
    """Batches by partition, in the order in which to send them; and why records are in none, by position."""

    batches: dict[Partition, deque[Batch]]
    refused: dict[int, str]


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
        new_builder: Callable[[], Any],
        records: Sequence[Record],
        positions: Iterable[int],
        topics: Mapping[str, TopicPartitions],
    ) -> PackedRecords:
        """Pack the records at these positions; the records of a partition stay in their order.

        `new_builder` creates an empty batch builder of aiokafka's, with room for `capacity` bytes.
        """
        packed = PackedRecords({}, {})
        for partition, chosen in self.partitions(records, positions, topics).items():
            batches = self._fill(new_builder, partition[0], records, chosen, packed.refused)
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
                number = (key_hash if len(key) <= _LARGEST_CACHED else key_hash.__wrapped__)(key) % total
            if number in by_number:
                by_number[number].append(position)
            else:
                by_number[number] = found[topic, number] = [position]
        return found

    def _fill(
        self,
        new_builder: Callable[[], Any],
        topic: str,
        records: Sequence[Record],
        positions: Iterable[int],
        refused: dict[int, str],
    ) -> list[Batch]:
        limit = self.limits.get(topic)
        encode = self._headers.encode
        shared: Mapping[str, str] | None = None
        common: list[Header] = []
        batches: list[Batch] = []
        append: Callable[..., Any] = _no_batch
        packed: list[int] = []
        for position in positions:
            record = records[position]
            if record.headers is not shared:
                shared, common = record.headers, encode(record.headers)
            id_, key, value = record.id, record.key, None if record.value is TOMBSTONE else record.value
            headers = [*common, (ID, id_.encode(errors="surrogateescape"))] if id_ else common
            if (
                limit is not None
                and batches
                and batches[-1].builder.size() + _bound(key, value, headers) > limit
            ):
                append = _no_batch
            if not append(timestamp=None, key=key, value=value, headers=headers):
                builder = new_builder()
                builder.append(timestamp=None, key=key, value=value, headers=headers)
                if why := self._too_large(topic, builder.size()):
                    refused[position] = why
                    continue
                append, packed = builder.append, []
                batches.append(Batch(builder, packed))
            packed.append(position)
        return batches

    def _too_large(self, topic: str, size: int) -> str | None:
        limit = self.limits.get(topic)
        most = min(limit or self._capacity, self._capacity)
        if size <= most:
            return None
        setting = "the topic's max.message.bytes" if limit else "backend.max_request_size"
        return f"a record of {size} bytes is too large for topic {topic}, which takes {most} ({setting})"


def _no_batch(**_: object) -> None:
    """`append` before there is a batch."""


def _bound(key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> int:
    """Most bytes that a record takes in a batch."""
    of_headers = sum(len(name) + len(text or b"") + _HEADER_OVERHEAD for name, text in headers)
    return len(value or b"") + len(key or b"") + of_headers + _OVERHEAD
