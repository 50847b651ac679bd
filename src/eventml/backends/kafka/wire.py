"""Records as Kafka carries them: their headers, and the partitions of their keys. No I/O.

Records follow CloudEvents' binary binding, with headers around a plain value. Records of one topic have few
distinct headers, so each set is converted once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, Final, Self

from eventml.records import NO_HEADERS, TOMBSTONE, Delivery, Record, foreign_id

Header = tuple[str, bytes | None]

Partition = tuple[str, int]
"""A topic and the number of one of its partitions; equal to aiokafka's TopicPartition."""

ID: Final = "ce_id"
CACHED_HEADERS: Final = 1_024
_CACHED_KEYS: Final = 65_536
LARGEST_CACHED: Final = 4_096  # bytes of headers, or of a key: publishers choose the size
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


def kafka_headers(headers: Mapping[str, str]) -> list[Header]:
    """The headers as Kafka has them."""
    return [
        (name, raw)
        for name, value in headers.items()
        for raw in getattr(value, "values", None) or (value.encode(errors="surrogateescape"),)
    ]


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
                    headers, id_ = headers[:-1], value.decode(errors="surrogateescape") if value else ""
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
            if len(self._decoded) >= CACHED_HEADERS:
                self._decoded.clear()
            known = {name: _text(value) for name, value in raw}
            if len(known) < len(raw) or None in dict(raw).values():
                values: dict[str, list[bytes | None]] = {name: [] for name in known}
                for name, value in raw:
                    values[name].append(value)
                known |= {
                    n: HeaderValues(some) for n, some in values.items() if len(some) > 1 or some[0] is None
                }
            if sum(len(value or b"") for _, value in raw) <= LARGEST_CACHED:
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
