"""Records and dead letters as people read them: for the commands and for the pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from eventml.codec import Decoder
from eventml.deploy.workers import utc_timestamp
from eventml.printable import printable, printable_json, valid_unicode
from eventml.records import Delivery
from eventml.runtime import DLQ_PREFIX, DeadLetterDelivery, DeadLetterQueue

_DECODER: Final = Decoder(Any)
_MAX_INDENTED: Final = 65_536  # bytes of JSON
_HIDDEN: Final = "(hidden)"
_MAX_SHOWN: Final = 65_536  # bytes of a key, and of a value


def delivery_to_json(delivery: Delivery, hidden: Sequence[str] = ()) -> bytes:
    """Return a delivery as one printable line of JSON: `{"topic", "key", "id", "time", "headers", "value"}`.

    The value is decoded by its content type, as JSON if it has none. One that cannot be decoded is shown as
    text, and one that is not UTF-8 as `{"base64": "..."}`. A key is shown as text or base64. The time is
    UTC, or null if the timestamp is outside the calendar. `hidden` has patterns of headers to hide.
    """
    record = delivery.record
    line = {
        "topic": record.topic,
        "key": None if record.key is None else _text_or_base64(record.key),
        "id": valid_unicode(record.id),
        "time": format_time(delivery.timestamp),
        "headers": dict(shown_headers(record.headers.items(), hidden)),
    }
    [value] = _DECODER.decode([delivery])
    if not isinstance(value, Exception):
        try:
            return printable_json(msgspec.json.encode({**line, "value": value})) + b"\n"
        except (TypeError, ValueError, RecursionError):
            pass  # MessagePack can hold values that JSON cannot
    return printable_json(msgspec.json.encode({**line, "value": _text_or_base64(record.value)})) + b"\n"


def shortened(delivery: Delivery) -> Delivery:
    """Return a delivery for a page: of a very long key or value only the beginning, as text that says so."""
    record = delivery.record
    long = {
        name: data[:_MAX_SHOWN].decode(errors="backslashreplace") + f"… ({len(data):,} bytes in all)"
        for name, data in (("key", record.key or b""), ("value", record.value))
        if len(data) > _MAX_SHOWN
    }
    cut = msgspec.structs.replace(record, **{name: text.encode() for name, text in long.items()})
    return msgspec.structs.replace(delivery, record=cut)


def _text_or_base64(data: bytes) -> str | dict[str, bytes]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": data}  # msgspec writes bytes as base64


def format_time(timestamp: float) -> str | None:
    """Return seconds since the epoch as a time in UTC (ISO 8601), or None if it is outside the calendar."""
    try:
        return utc_timestamp(timestamp)
    except (ValueError, OverflowError, OSError):  # a producer may set any timestamp
        return None


def shown_headers(headers: Iterable[tuple[str, str]], hidden: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Return headers as valid Unicode, without the values of those whose names a pattern matches."""
    for name, text in headers:
        secret = any(fnmatchcase(name.lower(), pattern.lower()) for pattern in hidden)
        yield valid_unicode(name), _HIDDEN if secret else valid_unicode(text)


def dead_letter_parts(
    queue: DeadLetterQueue, dead_letter: DeadLetterDelivery, hidden: Sequence[str] = ()
) -> Mapping[str, str]:
    """Return the parts of a dead letter by their labels, as printable text; empty ones are those it lacks."""
    record = msgspec.json.decode(delivery_to_json(dead_letter.delivery, hidden))
    first, last = (format_time(t) or "-" for t in (dead_letter.first_failure, dead_letter.last_failure))
    headers = [item for item in record["headers"].items() if not item[0].startswith(DLQ_PREFIX)]
    misplaced = f"names the group {dead_letter.group}, and lies in {queue.dead_letter_topic}"
    parts = {
        "failed": f"{last}, attempt {dead_letter.attempts}; first {first}",
        "from": one_line(
            f"{dead_letter.topic}, partition {dead_letter.partition}, offset {dead_letter.offset}"
        ),
        "misplaced": "" if queue.owns(dead_letter) else one_line(misplaced),
        "key": "" if record["key"] is None else format_value(record["key"]),
        "reason": one_line(dead_letter.message),
        "traceback": dead_letter.traceback,
        "headers": "\n".join(one_line(f"{name}: {text}") for name, text in headers),
        "value": format_value(record["value"]),
    }
    return {label: printable(text, keep="\n\t") for label, text in parts.items()}


def format_value(value: Any) -> str:
    """Return a value as JSON, indented unless that is too long; text as it is."""
    if isinstance(value, str):
        return value
    encoded = msgspec.json.encode(value)
    indented = msgspec.json.format(encoded) if len(encoded) <= _MAX_INDENTED else encoded
    return (indented if len(indented) <= _MAX_INDENTED else encoded).decode()


def one_line(text: str) -> str:
    """Return text in one line, printable."""
    return printable(" ".join(text.split()))
