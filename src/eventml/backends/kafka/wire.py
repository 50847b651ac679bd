"""Records as Kafka carries them: CloudEvents' binary binding, with headers around a plain value.

Both directions share headers: records of one topic have few distinct ones, so each is converted once.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from eventml.records import NO_HEADERS, Delivery, Record, foreign_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiokafka import TopicPartition

Header = tuple[str, bytes]
RawHeader = tuple[str, bytes | None]

ID: Final = "ce_id"
_CACHED_HEADERS: Final = 1_024
_CACHED_KEYS: Final = 65_536
_MASK: Final = 0xFFFFFFFF
_WORDS: Final = [Struct(f"<{count}I") for count in range(17)]


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
            encoded = [(name, value.encode(errors="surrogateescape")) for name, value in headers.items()]
            known = self._encoded[id(headers)] = (headers, encoded)
        return known[1]


class DeliveryDecoder:
    """Makes deliveries of fetched records; records with equal headers share one mapping."""

    def __init__(self) -> None:
        self._decoded: dict[tuple[RawHeader, ...], Mapping[str, str]] = {}
        self._last_raw: Sequence[RawHeader] = ()  # the headers of the record before
        self._last: Mapping[str, str] = NO_HEADERS

    def deliveries(self, partition: TopicPartition, fetched: Sequence[Any]) -> Sequence[Delivery]:
        """The deliveries of one partition's records, in their order.

        Args:
            partition: Their partition.
            fetched: aiokafka's records, or what `convert_fetched` has made of them.
        """
        if isinstance(fetched[0], Delivery):
            return fetched
        return [self.delivery(partition, record) for record in fetched]

    def delivery(self, partition: TopicPartition, record: Any) -> Delivery:
        """The delivery of a record.

        A record without an id gets the id `topic/partition/offset`. A tombstone (a record without a value)
        gets an empty value.
        """
        topic, index = partition
        headers, offset, id_ = record.headers, record.offset, ""
        shared = NO_HEADERS
        if headers:
            name, value = headers[-1]
            if name == ID:  # the position at which eventml writes it
                headers, id_ = headers[:-1], _text(value)
            else:
                headers, id_ = _split_id(headers)
            if headers != self._last_raw:
                self._last, self._last_raw = self._headers(headers), headers
            shared = self._last
        return Delivery(
            Record(topic, record.value or b"", record.key, id_ or foreign_id(topic, index, offset), shared),
            index,
            offset,
            record.timestamp / 1000,
        )

    def _headers(self, headers: Sequence[RawHeader]) -> Mapping[str, str]:
        if not headers:
            return NO_HEADERS
        raw = tuple(headers)
        known = self._decoded.get(raw)
        if known is None:
            if len(self._decoded) >= _CACHED_HEADERS:
                self._decoded.clear()
            known = self._decoded[raw] = {name: _text(value) for name, value in raw}
        return known


def _split_id(headers: Sequence[RawHeader]) -> tuple[Sequence[RawHeader], str]:
    """The headers without the id, and the id, which may be at any position or missing."""
    for position, (name, value) in enumerate(headers):
        if name == ID:
            return (*headers[:position], *headers[position + 1 :]), _text(value)
    return headers, ""


def _text(value: bytes | None) -> str:
    """Bytes that are not UTF-8 survive the way back to bytes."""
    return "" if value is None else value.decode(errors="surrogateescape")


class KeyHasher:
    """Hashes keys as Kafka's own clients do, so that all clients send a key to the same partition."""

    def __init__(self) -> None:
        self._hashes: dict[bytes, int] = {}

    def hash(self, key: bytes) -> int:
        """The key's hash, not negative. Modulo the number of partitions it is the partition."""
        known = self._hashes.get(key)
        if known is None:
            if len(self._hashes) >= _CACHED_KEYS:
                self._hashes.clear()
            known = self._hashes[key] = murmur2(key) & 0x7FFFFFFF
        return known


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
