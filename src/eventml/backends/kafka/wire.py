"""A record as Kafka carries it: CloudEvents' binary binding, in headers around a plain value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from eventml.records import NO_HEADERS, Delivery, Record, foreign_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Header = tuple[str, bytes]

ID: Final = "ce_id"
_KEPT = 1_024  # encoded and decoded headers that are remembered; records of one topic share a few


class HeaderEncoder:
    """Encodes headers, once for each mapping that records share."""

    def __init__(self) -> None:
        self._encoded: dict[int, tuple[Mapping[str, str], list[Header]]] = {}

    def encode(self, headers: Mapping[str, str]) -> list[Header]:
        """The headers but for the id, which differs from record to record. Not to be changed."""
        # By identity: records share their mapping. It is kept along with its list, so that its
        # address cannot become another's.
        known = self._encoded.get(id(headers))
        if known is None:
            if len(self._encoded) >= _KEPT:
                self._encoded.clear()
            encoded = [(name, value.encode(errors="surrogateescape")) for name, value in headers.items()]
            known = self._encoded[id(headers)] = (headers, encoded)
        return known[1]


class HeaderDecoder:
    """Decodes headers; records whose headers are alike share one mapping."""

    def __init__(self) -> None:
        self._decoded: dict[tuple[tuple[str, bytes | None], ...], Mapping[str, str]] = {}

    def decode(self, headers: Sequence[tuple[str, bytes | None]]) -> Mapping[str, str]:
        """The headers as text. What is not UTF-8 survives a way out and back again."""
        if not headers:
            return NO_HEADERS
        raw = tuple(headers)
        known = self._decoded.get(raw)
        if known is None:
            if len(self._decoded) >= _KEPT:
                self._decoded.clear()
            known = self._decoded[raw] = {name: _text(value) for name, value in raw}
        return known


class DeliveryReader:
    """Makes deliveries of what aiokafka fetched."""

    def __init__(self) -> None:
        self._headers = HeaderDecoder()

    def read(self, topic: str, partition: int, fetched: Sequence[Any]) -> list[Delivery]:
        """The deliveries of one partition's records, in their order.

        A record without an id of its own gets one that says where it stands. A tombstone (no value at
        all) arrives with an empty value.
        """
        decode = self._headers.decode
        deliveries = []
        last_raw: Sequence[tuple[str, bytes | None]] = ()
        last: Mapping[str, str] = NO_HEADERS
        for record in fetched:
            raw, id_ = _split_id(record.headers)
            if raw != last_raw:
                last, last_raw = decode(raw), raw
            offset = record.offset
            deliveries.append(
                Delivery(
                    Record(
                        topic,
                        record.value or b"",
                        record.key,
                        id_ or foreign_id(topic, partition, offset),
                        last,
                    ),
                    partition,
                    offset,
                    record.timestamp / 1000,
                )
            )
        return deliveries


def _split_id(
    headers: Sequence[tuple[str, bytes | None]],
) -> tuple[Sequence[tuple[str, bytes | None]], str]:
    """The headers without the id, and the id: ours stands last, others' may stand anywhere."""
    if not headers:
        return headers, ""
    name, value = headers[-1]
    if name == ID:
        return headers[:-1], _text(value)
    for position, (name, value) in enumerate(headers):
        if name == ID:
            return (*headers[:position], *headers[position + 1 :]), _text(value)
    return headers, ""


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode(errors="surrogateescape")
