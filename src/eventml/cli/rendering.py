"""A delivery as one line of JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from eventml.codec import Decoder

if TYPE_CHECKING:
    from eventml.records import Delivery

_DECODER = Decoder(Any)


def as_line(delivery: Delivery) -> bytes:
    """`{"topic", "key", "id", "time", "headers", "value"}` in one line, with its end.

    A value is what it decodes to by its content type, JSON where it names none; else its text; else
    `{"base64": "..."}`. So is a key, as text or base64. The time is UTC; null if it is none at all.
    """
    record = delivery.record
    line = {
        "topic": record.topic,
        "key": None if record.key is None else _text(record.key),
        "id": _printable(record.id),
        "time": _time(delivery.timestamp),
        "headers": {_printable(name): _printable(value) for name, value in record.headers.items()},
    }
    [value] = _DECODER.decode([delivery])
    if not isinstance(value, Exception):
        try:
            return msgspec.json.encode({**line, "value": value}) + b"\n"
        except (TypeError, ValueError, RecursionError):
            pass  # MessagePack holds things that JSON does not
    return msgspec.json.encode({**line, "value": _text(record.value)}) + b"\n"


def _text(data: bytes) -> str | dict[str, bytes]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": data}  # as msgspec writes bytes


def _time(timestamp: float) -> str | None:
    try:
        time = datetime.fromtimestamp(timestamp, UTC)
    except (ValueError, OverflowError, OSError):  # a producer may have said anything
        return None
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _printable(text: str) -> str:
    """Text that JSON can hold: a broker may hand out headers that were no UTF-8."""
    return text.encode(errors="backslashreplace").decode()
