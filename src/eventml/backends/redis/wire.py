"""The wire format: a record as the fields of a stream's entry, and back.

    data   the value
    id     the record's id
    meta   the headers as one JSON object: CloudEvents attributes by their own names (`type`,
           `source`, `datacontenttype`), and all other headers under `headers`
    key    the key, if there is one

The fields are written in that order, which lets Redis store their names once for many entries. An entry
with `data` and none of the other fields is a record without headers; one without `data` is the event
itself, field by field, in text. All other fields become headers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import floor
from types import MappingProxyType
from typing import Any, Final

import msgspec

from eventml import records
from eventml.backends.base import Start
from eventml.backends.redis.connection import bulk
from eventml.records import NO_HEADERS, Delivery, Record, foreign_id

Entry = tuple[bytes, list[bytes]]

DATA, ID, META, KEY = b"data", b"id", b"meta", b"key"

_ATTRIBUTE: Final = "ce_"
_CONTENT_TYPE: Final = "datacontenttype"
_OTHERS: Final = "headers"
_CACHED: Final = 256
"""Header mappings in a cache. A publisher has a handful, unless each event has headers of its own."""

_LARGEST_CACHED: Final = 4_096  # bytes of headers: publishers choose the size

_ID_NAME: Final = bulk(ID)
_KEY_NAME: Final = bulk(KEY)

FIRST: Final = "0-0"  # an id before that of any entry
_LAST_OF_MILLISECOND: Final = (1 << 64) - 1  # the largest sequence number of an id

_FIELD_HEADERS: Final = MappingProxyType({records.CONTENT_TYPE: records.FIELDS})


def id_before(start: Start) -> str:
    """The largest id that an entry before this start may have; "$", for that of the last, for `latest`."""
    if isinstance(start, str):
        return FIRST if start == "earliest" else "$"
    milliseconds = floor(round(start * 1000, 3))  # rounded, so that a delivery's timestamp is its own start
    return f"{milliseconds - 1}-{_LAST_OF_MILLISECOND}" if milliseconds > 0 else FIRST


def ordered(id_: int | str) -> tuple[int, int]:
    """The id of an entry as a tuple, which has the order of the entries."""
    milliseconds, _, sequence = str(id_).partition("-")
    return int(milliseconds), int(sequence)


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Encode headers as the field `meta`; empty if there are none."""
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


@lru_cache(_CACHED)
def decode_headers(meta: bytes) -> Mapping[str, str]:
    """Decode the field `meta`. A value that is no JSON object becomes a header named `meta`."""
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


def _headers_of(meta: bytes) -> Mapping[str, str]:
    return (decode_headers if len(meta) <= _LARGEST_CACHED else decode_headers.__wrapped__)(meta)


def _header(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def text(value: bytes) -> str:
    """Decode bytes as UTF-8; bytes that are not UTF-8 are escaped."""
    return value.decode("utf-8", "backslashreplace")


def defect(record: Record, largest: int) -> str | None:
    """Why a server with a limit of `largest` bytes for an argument cannot accept a record; None if it can."""
    if max(len(record.value), len(record.key or b""), len(record.id)) > largest:
        return f"it is larger than the {largest} bytes that the server accepts (proto-max-bulk-len)"
    try:
        "".join((record.topic, record.id, *record.headers, *record.headers.values())).encode()
    except UnicodeEncodeError as exc:
        return f"its id or its headers cannot be encoded in UTF-8: {exc}"
    return None


_encoded: Final[dict[int, tuple[Mapping[str, str], bytes]]] = {}
"""Headers and their `meta`, by identity. Headers are kept, so that no others can get their id meanwhile."""


def meta_of(headers: Mapping[str, str]) -> bytes:
    """The field `meta` of these headers. Each mapping is encoded once: records share theirs."""
    found = _encoded.get(id(headers))
    if found is None:
        if len(_encoded) >= _CACHED:
            _encoded.clear()
        found = headers, encode_headers(headers)
        if len(found[1]) <= _LARGEST_CACHED:
            _encoded[id(headers)] = found
    return found[1]


def add_commands(some: Sequence[Record]) -> list[bytes]:
    """The packed command that adds each of these records to its topic.

    Raises:
        UnicodeEncodeError: a text cannot be encoded in UTF-8.
    """
    commands: list[bytes] = []
    last: Record | None = None
    head = tail = b""
    for record in some:
        if last is None or not alike(record, last):
            head, tail = _around(record)
            last = record
        value = record.value
        if record.id:
            id_ = record.id.encode()
            command = b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n%b" % (
                head, len(value), value, _ID_NAME, len(id_), id_, tail,
            )  # fmt: skip
        else:
            command = b"%b$%d\r\n%b\r\n%b" % (head, len(value), value, tail)
        if record.key is not None:
            command += _KEY_NAME + bulk(record.key)
        commands.append(command)
    return commands


def _around(record: Record) -> tuple[bytes, bytes]:
    """The parts of a command before the record's value, and after its id."""
    meta = meta_of(record.headers)
    fields = 1 + bool(record.id) + bool(meta) + (record.key is not None)
    arguments = (b"XADD", record.topic.encode(), b"*", DATA)
    head = b"*%d\r\n" % (3 + 2 * fields) + b"".join(map(bulk, arguments))
    return head, bulk(META) + bulk(meta) if meta else b""


def alike(record: Record, other: Record) -> bool:
    """Whether the commands of two records differ in nothing but their values, ids and keys."""
    return (
        record.headers is other.headers
        and record.topic == other.topic
        and (record.key is None) is (other.key is None)
        and bool(record.id) is bool(other.id)
    )


def decode_entries(topic: str, entries: Sequence[Entry], attempts: Sequence[int] = ()) -> list[Delivery]:
    """Decode entries, in their order. Those with the same `meta` share one mapping of headers.

    `attempts` is how often each has been delivered, this time included; empty if all are new.
    """
    made: list[Delivery] = []
    last_meta, headers = b"", NO_HEADERS
    moment, timestamp = "?", 0.0
    for position, (entry_id, fields) in enumerate(entries):
        offset = entry_id.decode()
        if not offset.startswith(moment):
            milliseconds = offset.partition("-")[0]
            moment, timestamp = f"{milliseconds}-", int(milliseconds) / 1000
        if (
            (len(fields) == 6 or (len(fields) == 8 and fields[6] == KEY))  # noqa: PLR2004 - the fields above
            and fields[0] == DATA
            and fields[2] == ID
            and fields[4] == META
        ):
            meta = fields[5]
            if meta != last_meta:
                last_meta, headers = meta, _headers_of(meta)
            key = fields[7] if len(fields) == 8 else None  # noqa: PLR2004 - the fields above
            id_ = fields[3].decode("utf-8", "backslashreplace")  # `text`, without a call
            record = Record(topic, fields[1], key, id_, headers)
        else:
            record = _decode_foreign(topic, fields)
        if not record.id:
            record = msgspec.structs.replace(record, id=foreign_id(topic, 0, offset))
        made.append(Delivery(record, 0, offset, timestamp, attempts[position] if attempts else 1))
    return made


def _decode_foreign(topic: str, fields: list[bytes]) -> Record:
    members = dict(zip(fields[::2], fields[1::2], strict=True))
    if DATA not in members:
        event = {text(name): text(value) for name, value in members.items()}
        return Record(topic, msgspec.json.encode(event), None, "", _FIELD_HEADERS)
    value, key = members.pop(DATA), members.pop(KEY, None)
    id_ = text(members.pop(ID, b""))
    meta = members.pop(META, b"")
    headers = _headers_of(meta) if meta else NO_HEADERS
    if members:
        headers = MappingProxyType({**headers, **{text(name): text(v) for name, v in members.items()}})
    return Record(topic, value, key, id_, headers)
