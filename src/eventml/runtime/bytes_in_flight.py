"""Bounding what one handler holds in bytes, besides the number of its events: a pure decision.

A batch, what waits behind it, what is being completed, and what waits for a retry are each bounded by
`max_batch` events. For events of up to `max_bytes / max_batch` bytes that bounds the bytes, too. So only
larger events are counted one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.records import Delivery, count_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class BytesInFlight:
    """The bytes of the large events that one handler has received and not completed.

    Args:
        max_bytes: The most bytes that one read returns, as the backend promises.
        max_batch: The most events of one call.
    """

    def __init__(self, max_bytes: int, max_batch: int) -> None:
        self._max_bytes = max_bytes
        self._small = max_bytes // max_batch
        self._sizes: dict[tuple[str, int, int | str], int] = {}

    @property
    def full(self) -> bool:
        """Whether as many bytes are in flight as two reads return: one is processed, and one waits."""
        return bool(self._sizes) and sum(self._sizes.values()) >= 2 * self._max_bytes

    def add(self, deliveries: Sequence[Delivery], all_headers: Sequence[Mapping[str, str]]) -> None:
        """Count received deliveries; their headers are as in a `DecodedBatch`."""
        small = self._small
        sizes = [
            (d, size) for d in deliveries if (size := len((r := d.record).value) + len(r.key or b"")) > small
        ]
        if any(_length(headers) > small for headers in all_headers):
            sizes = [(d, count_bytes([d]) + _length(d.record.headers)) for d in deliveries]
        self._sizes |= {_place(d): size for d, size in sizes if size > small}

    def remove(self, deliveries: Iterable[Delivery]) -> bool:
        """These are completed. Returns whether there were large ones in flight."""
        if not self._sizes:
            return False
        for delivery in deliveries:
            self._sizes.pop(_place(delivery), None)
        return True


def _place(delivery: Delivery) -> tuple[str, int, int | str]:
    return delivery.record.topic, delivery.partition, delivery.offset


def _length(headers: Mapping[str, str]) -> int:
    return sum(map(len, headers.values()))
