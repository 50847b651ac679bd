"""Which partition a record goes to: as Kafka's own clients decide, so that foreign producers agree."""

from __future__ import annotations

from struct import Struct
from typing import Final

_KEPT = 65_536  # keys whose hash is remembered
_MASK: Final = 0xFFFFFFFF
_WORDS: Final = [Struct(f"<{count}I") for count in range(17)]


class Partitioner:
    """Keyed records by their key's hash; those without a key to one partition a call, in turn."""

    def __init__(self) -> None:
        self._hashes: dict[bytes, int] = {}
        self._turn = 0

    def hash(self, key: bytes) -> int:
        """The key's hash, not negative. Modulo the number of partitions it is the partition."""
        known = self._hashes.get(key)
        if known is None:
            if len(self._hashes) >= _KEPT:
                self._hashes.clear()
            known = self._hashes[key] = murmur2(key) & 0x7FFFFFFF
        return known

    def next_turn(self) -> int:
        """For the records without a key: one partition a call makes large batches, in turn an even load."""
        self._turn += 1
        return self._turn


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
