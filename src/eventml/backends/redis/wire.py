"""The wire format: a record as the fields of a stream's entry, and back.

    data   the value
    id     the record's id
    meta   the headers as one JSON object: CloudEvents attributes by their own names (`type`,
           `source`, `datacontenttype`), whatever else under `headers`
    key    the key, if there is one

The fields come in that order, which lets Redis store their names once for many entries. An entry
with `data` and none of the others is a record without headers; one without `data` is the event
itself, field by field, in text. Fields that are none of these become headers.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml import records
from eventml.records import NO_HEADERS, Delivery, Record, foreign_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Entry = tuple[bytes, list[bytes]]

DATA, ID, META, KEY = b"data", b"id", b"meta", b"key"

_ATTRIBUTE: Final = "ce_"
_CONTENT_TYPE: Final = "datacontenttype"
_OTHERS: Final = "headers"
_CACHED: Final = 256
"""Mappings of headers that are remembered. A publisher has a handful, unless each event has its own."""

_FIELD_HEADERS: Final[Mapping[str, str]] = MappingProxyType({records.CONTENT_TYPE: records.FIELDS})


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """The `meta` of these headers; empty where there are none."""
    meta: dict[str, Any] = {}
    others: dict[str, str] = {}
    for name, value in headers.items():
        attribute = name.removeprefix(_ATTRIBUTE)
        if name == records.CONTENT_TYPE:
            meta[_CONTENT_TYPE] = value
        elif attribute != name and attribute not in ("", _CONTENT_TYPE, _OTHERS):
            meta[attribute] = value
        else:
            others[name] = value
    if others:
        meta[_OTHERS] = others
    return msgspec.json.encode(meta) if meta else b""


def decode_headers(meta: bytes) -> Mapping[str, str]:
    """The headers of a `meta`; one that is no JSON object becomes a header of that name."""
    try:
        members = msgspec.json.decode(meta, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return MappingProxyType({META.decode(): text(meta)})
    headers: dict[str, str] = {}
    for name, value in members.items():
        if name == _OTHERS and isinstance(value, dict):
            headers |= {other: _header(found) for other, found in value.items()}
        elif name == _CONTENT_TYPE:
            headers[records.CONTENT_TYPE] = _header(value)
        else:
            headers[_ATTRIBUTE + name] = _header(value)
    return MappingProxyType(headers)


def _header(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def text(value: bytes) -> str:
    """Bytes as text that can be shown and encoded, whatever they hold."""
    return value.decode(errors="backslashreplace")


class HeaderEncoder:
    """Encodes each mapping of headers once: records share theirs."""

    def __init__(self) -> None:
        # By identity: the mapping is kept along, so that no other can have its id meanwhile.
        self._encoded: dict[int, tuple[Mapping[str, str], bytes]] = {}

    def encode(self, headers: Mapping[str, str]) -> bytes:
        found = self._encoded.get(id(headers))
        if found is None:
            if len(self._encoded) >= _CACHED:
                self._encoded.clear()
            found = self._encoded[id(headers)] = (headers, encode_headers(headers))
        return found[1]


class EntryDecoder:
    """Makes deliveries of entries. Entries with the same `meta` share one mapping of headers."""

    def __init__(self) -> None:
        self._headers: dict[bytes, Mapping[str, str]] = {}

    def deliveries(
        self, topic: str, entries: Sequence[Entry], attempts: Sequence[int] = ()
    ) -> list[Delivery]:
        """A delivery for each entry, in their order.

        Args:
            topic: Whose entries they are.
            entries: Ids and fields.
            attempts: How often each has been delivered; empty if this is the first time for all.
        """
        made: list[Delivery] = []
        last_meta, headers = b"", NO_HEADERS
        moment, timestamp = "?", 0.0
        for position, (entry_id, fields) in enumerate(entries):
            offset = entry_id.decode()
            if not offset.startswith(moment):
                milliseconds = offset.partition("-")[0]
                moment, timestamp = f"{milliseconds}-", int(milliseconds) / 1000
            key = None
            if (
                (len(fields) == 6 or (len(fields) == 8 and fields[6] == KEY))  # noqa: PLR2004 - the fields above
                and fields[0] == DATA
                and fields[2] == ID
                and fields[4] == META
            ):
                meta = fields[5]
                if meta != last_meta:
                    last_meta, headers = meta, self._decode(meta)
                if len(fields) == 8:  # noqa: PLR2004 - the fields above
                    key = fields[7]
                try:
                    record = Record(topic, fields[1], key, fields[3].decode(), headers)
                except UnicodeDecodeError:
                    record = Record(topic, fields[1], key, text(fields[3]), headers)
            else:
                record = self._foreign(topic, fields)
            if not record.id:
                record = msgspec.structs.replace(record, id=foreign_id(topic, 0, offset))
            made.append(Delivery(record, 0, offset, timestamp, attempts[position] if attempts else 1))
        return made

    def _foreign(self, topic: str, fields: list[bytes]) -> Record:
        members = dict(zip(fields[::2], fields[1::2], strict=True))
        if DATA not in members:
            event = {text(name): text(value) for name, value in members.items()}
            return Record(topic, msgspec.json.encode(event), None, "", _FIELD_HEADERS)
        value, key = members.pop(DATA), members.pop(KEY, None)
        id_ = text(members.pop(ID, b""))
        meta = members.pop(META, b"")
        headers = self._decode(meta) if meta else NO_HEADERS
        if members:
            headers = MappingProxyType({**headers, **{text(name): text(v) for name, v in members.items()}})
        return Record(topic, value, key, id_, headers)

    def _decode(self, meta: bytes) -> Mapping[str, str]:
        headers = self._headers.get(meta)
        if headers is None:
            if len(self._headers) >= _CACHED:
                self._headers.clear()
            headers = self._headers[meta] = decode_headers(meta)
        return headers
