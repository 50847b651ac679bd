"""Decoding values to events and encoding events to values, a batch at a time.

A record that cannot be decoded fails alone: its place in the batch holds the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, NamedTuple

import msgspec

from eventml.errors import DecodeError, OutputError
from eventml.event_types import Decode, json_decoder, msgpack_decoder, to_builtin, to_json
from eventml.printable import cut
from eventml.records import CONTENT_TYPE, FIELDS, JSON, MSGPACK, TOMBSTONE, Delivery

Format = Literal["json", "msgpack"]

_ENCODER_ERRORS: Final = (TypeError, ValueError, RecursionError, OverflowError)
_MAX_SHOWN: Final = 200  # bytes of a value, or characters of an event, in an error message


class DecodedBatch(NamedTuple):
    """The events of a batch of deliveries.

    Attributes:
        events: In the order of the deliveries, with a DecodeError in the place of each bad record.
        errors: How many of them are DecodeErrors.
        headers: The header mappings of the records, each at least once. Records that share a mapping and
            follow each other are listed once, so what holds for all headers is quickly found.
    """

    events: list[Any]
    errors: int
    headers: Sequence[Mapping[str, str]]


class Decoder:
    """Decodes values to one event type, in the format that each record's headers name.

    A record that names no known format is decoded as JSON: `kcat` and `redis-cli` name none. Fields that the
    event type does not have are ignored, so that producers may add some. A tombstone is decoded as JSON's
    null is: to None, or, for an event type that has no None, to an error.

    Args:
        event_type: A type that `check_event_type` accepts.
        strict: Whether a value must have its field's type: `"1"` is refused for an integer. Models of
            pydantic decide for themselves.
    """

    def __init__(self, event_type: Any, *, strict: bool = True) -> None:
        self._json = json_decoder(event_type, strict=strict)
        msgpack = msgpack_decoder(event_type, strict=strict)
        self._formats: dict[str, Decode] = {
            JSON: self._json,
            MSGPACK: msgpack,
            "application/x-msgpack": msgpack,
            FIELDS: json_decoder(event_type, strict=False),
        }

    def decode(self, deliveries: Sequence[Delivery]) -> list[Any]:
        """Events in the order of the deliveries, with a DecodeError in the place of each bad record."""
        return self.decode_batch(deliveries).events

    def decode_batch(self, deliveries: Sequence[Delivery]) -> DecodedBatch:
        """As `decode`, with what the runtime needs to know of the batch as a whole."""
        if not deliveries:
            return DecodedBatch([], 0, ())
        # A producer's records share one mapping of headers, so this is a test of identity.
        headers = deliveries[0].record.headers
        values = [record.value for d in deliveries if (record := d.record).headers is headers]
        if len(values) == len(deliveries):
            with suppress(Exception):
                return DecodedBatch(list(map(self._decode_for(headers), values)), 0, (headers,))
        return self._decode_each(deliveries)

    def _decode_each(self, deliveries: Sequence[Delivery]) -> DecodedBatch:
        events: list[Any] = []
        distinct: list[Mapping[str, str]] = []
        errors = 0
        headers, decode = None, self._json
        for delivery in deliveries:
            record = delivery.record
            if record.headers is not headers:
                headers = record.headers
                distinct.append(headers)
                decode = self._decode_for(headers)
            try:
                value = record.value
                events.append(self._json(b"null") if value is TOMBSTONE else decode(value))
            except Exception as exc:  # noqa: BLE001 - validators of the event's class may raise anything
                errors += 1
                events.append(_decode_error(delivery, exc))
        return DecodedBatch(events, errors, distinct)

    def _decode_for(self, headers: Mapping[str, str]) -> Decode:
        return self._formats.get(headers.get(CONTENT_TYPE, JSON), self._json)


def _decode_error(delivery: Delivery, exc: Exception) -> DecodeError:
    record = delivery.record
    shown = repr(record.value[:_MAX_SHOWN])[1:] + ("…" if len(record.value) > _MAX_SHOWN else "")
    if record.value is TOMBSTONE:
        shown = "none, it is a tombstone"
    error = DecodeError(f"record {cut(record.id)!r} of {record.topic!r}: {exc}; its value: {shown}")
    error.__cause__ = exc
    return error


class Encoder:
    """Encodes events, and numpy's scalars and arrays in them, in one format.

    Attributes:
        content_type: The content type of the format.
        null: None in the format.
    """

    def __init__(self, format: Format = "json") -> None:  # noqa: A002 - the word for it
        if format == "json":
            self.content_type, self._encode = JSON, msgspec.json.Encoder(enc_hook=to_json).encode
        else:
            self.content_type, self._encode = MSGPACK, msgspec.msgpack.Encoder(enc_hook=to_builtin).encode
        self.null = self._encode(None)

    def encode_all(self, events: Sequence[Any]) -> list[bytes]:
        """The bytes of a batch of events.

        Raises:
            OutputError: one contains an object that the format cannot represent. The message shows it.
        """
        values: list[bytes] = []
        try:
            values += map(self._encode, events)  # on an error it holds the values of the events before
        except _ENCODER_ERRORS as exc:
            raise OutputError(f"cannot encode {shorten(events[len(values)])}: {exc}") from exc
        return values


def shorten(event: object) -> str:
    """The event as an error message shows it, cut to 200 characters; its type if `repr` fails."""
    try:
        return cut(repr(event), _MAX_SHOWN)
    except Exception:  # noqa: BLE001 - nested too deep, or a class of the app's
        return f"a {type(event).__name__}"
