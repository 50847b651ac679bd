"""A record as Kafka carries it: CloudEvents' binary binding, in headers around a plain value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from eventml.records import NO_HEADERS, Delivery, Record, foreign_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiokafka import AIOKafkaConsumer, TopicPartition

    Header = tuple[str, bytes]
    RawHeader = tuple[str, bytes | None]

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
        self._decoded: dict[tuple[RawHeader, ...], Mapping[str, str]] = {}

    def decode(self, headers: Sequence[RawHeader]) -> Mapping[str, str]:
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
        self._last: Sequence[RawHeader] = ()  # the headers of the record before, and what they are
        self._shared: Mapping[str, str] = NO_HEADERS

    def hook(self, consumer: AIOKafkaConsumer) -> None:
        """Have the consumer make deliveries, in the place of records of its own, of what it holds.

        A third of a consumer's time goes into those records. There is no public way around them; what
        this misses comes as such a record, and `read` takes both.
        """
        for fetched in consumer._fetcher._records.values():  # noqa: SLF001 - see above
            records = getattr(fetched, "_partition_records", None)
            if records is not None:
                records._consumer_record = self.delivery  # noqa: SLF001 - the same

    def read(self, partition: TopicPartition, fetched: Sequence[Any]) -> Sequence[Delivery]:
        """The deliveries of one partition's records, in their order."""
        if isinstance(fetched[0], Delivery):
            return fetched
        return [self.delivery(partition, record) for record in fetched]

    def delivery(self, partition: TopicPartition, record: Any) -> Delivery:
        """The delivery of a record.

        One without an id of its own gets one that says where it stands. A tombstone (no value at all)
        arrives with an empty value.
        """
        topic, index = partition
        headers, offset, id_ = record.headers, record.offset, ""
        shared = NO_HEADERS
        if headers:
            name, value = headers[-1]
            if name == ID:  # where we write it
                headers, id_ = headers[:-1], _text(value)
            else:
                headers, id_ = _split_id(headers)
            if headers != self._last:
                self._shared, self._last = self._headers.decode(headers), headers
            shared = self._shared
        return Delivery(
            Record(topic, record.value or b"", record.key, id_ or foreign_id(topic, index, offset), shared),
            index,
            offset,
            record.timestamp / 1000,
        )


def _split_id(headers: Sequence[RawHeader]) -> tuple[Sequence[RawHeader], str]:
    """The headers without the id, and the id, which stands anywhere or nowhere."""
    for position, (name, value) in enumerate(headers):
        if name == ID:
            return (*headers[:position], *headers[position + 1 :]), _text(value)
    return headers, ""


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode(errors="surrogateescape")
