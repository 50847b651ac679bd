"""Bytes to events and events to bytes, a batch at a time.

A record that does not decode stands alone: in its place in the batch is the error, and its
neighbours are events.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from eventml.errors import DecodeError, OutputError
from eventml.records import CONTENT_TYPE, FIELDS, JSON, MSGPACK, REPLY_TO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventml.records import Delivery

Format = Literal["json", "msgpack"]
CONTENT_TYPES: dict[Format, str] = {"json": JSON, "msgpack": MSGPACK}

REPLAY_GROUP: Final = "eventml-replay-group"
"""The header of a replayed record: the one consumer group that it is for."""

_BAD: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoders raise."""

_SHOWN = 200  # bytes of a value that an error message repeats


def asks(headers: Mapping[str, str]) -> bool:
    """Whether a record with these headers asks for a reply. A replayed one does so no more."""
    return REPLY_TO in headers and REPLAY_GROUP not in headers


class NotOurs:
    """In the place of an event: its record was replayed for another group, and this one has handled it."""


_NOT_OURS: Final = NotOurs()


class Decoder:
    """Decodes values to one event type, in the format that each record names.

    A record that names none, or one unknown here, is taken as JSON: `kcat` and `redis-cli` name none.
    Fields beyond those of the event's type are ignored, so that producers may add some.

    Args:
        event_type: Anything msgspec decodes to: a Struct, a dataclass, a TypedDict, `dict`, `Any`.
        group: The consumer group that it decodes for; None for a reader of its own, who sees all.
    """

    def __init__(self, event_type: Any, group: str | None = None) -> None:
        self._group = group
        self.without_event = 0
        """How many records held no event for whoever decodes."""
        self.asked = 0
        """How many records ask for a reply."""
        self._json: Callable[[bytes], Any] = msgspec.json.Decoder(event_type).decode
        self._formats: dict[str, Callable[[bytes], Any]] = {
            JSON: self._json,
            MSGPACK: msgspec.msgpack.Decoder(event_type).decode,
            "application/x-msgpack": msgspec.msgpack.Decoder(event_type).decode,
            FIELDS: msgspec.json.Decoder(event_type, strict=False).decode,
        }
        self._plain = set(self._formats.values())  # those that count nothing

    def decode(self, deliveries: Sequence[Delivery]) -> list[Any]:
        """Events in the order of the deliveries.

        In the place of a bad one is a DecodeError, and in that of one replayed for another group NotOurs.
        """
        if not deliveries:
            return []
        # A producer's records share one mapping of headers, so this is a test of identity.
        headers = deliveries[0].record.headers
        values = [record.value for d in deliveries if (record := d.record).headers is headers]
        decode = self._decode_for(headers)
        if len(values) == len(deliveries) and decode in self._plain:
            with suppress(*_BAD):
                return list(map(decode, values))
        return self._one_by_one(deliveries)

    def _one_by_one(self, deliveries: Sequence[Delivery]) -> list[Any]:
        events: list[Any] = []
        headers, decode = None, self._json
        for delivery in deliveries:
            record = delivery.record
            if record.headers is not headers:
                headers = record.headers
                decode = self._decode_for(headers)
            try:
                events.append(decode(record.value))
            except _BAD as exc:
                self.without_event += 1
                events.append(_decode_error(delivery, exc))
        return events

    def _decode_for(self, headers: Mapping[str, str]) -> Callable[[bytes], Any]:
        if self._group is not None and headers.get(REPLAY_GROUP, self._group) != self._group:
            return self._pass_over
        decode = self._formats.get(headers.get(CONTENT_TYPE, JSON), self._json)
        return self._counting(decode) if asks(headers) else decode

    def _counting(self, decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def count_and_decode(value: bytes) -> Any:
            self.asked += 1
            return decode(value)

        return count_and_decode

    def _pass_over(self, value: bytes) -> NotOurs:  # noqa: ARG002 - it stands in for a decoder
        self.without_event += 1
        return _NOT_OURS


def _decode_error(delivery: Delivery, exc: Exception) -> DecodeError:
    value = delivery.record.value
    shown = repr(value[:_SHOWN])[1:] + ("…" if len(value) > _SHOWN else "")
    error = DecodeError(
        f"record {delivery.record.id!r} of {delivery.record.topic!r}: {exc}; its value: {shown}"
    )
    error.__cause__ = exc
    return error


class Encoder:
    """Encodes events of any type msgspec knows, and numpy's scalars and arrays, in one format."""

    def __init__(self, format: Format = "json") -> None:  # noqa: A002 - the word for it
        self.content_type = CONTENT_TYPES[format]
        encoder = msgspec.json.Encoder if format == "json" else msgspec.msgpack.Encoder
        self._encode = encoder(enc_hook=to_builtin).encode

    def encode(self, event: Any) -> bytes:
        """The event's bytes.

        Raises:
            OutputError: it holds something that has no place in this format.
        """
        return self.encode_all((event,))[0]

    def encode_all(self, events: Sequence[Any]) -> list[bytes]:
        """As `encode`, for a batch: one that cannot be encoded fails it, and is named."""
        try:
            return list(map(self._encode, events))
        except (TypeError, ValueError, RecursionError, OverflowError) as exc:
            culprit = next(event for event in events if not self._encodes(event))
            raise OutputError(f"cannot encode {shorten(culprit)}: {exc}") from exc

    def _encodes(self, event: Any) -> bool:
        try:
            self._encode(event)
        except (TypeError, ValueError, RecursionError, OverflowError):
            return False
        return True


def to_builtin(value: Any) -> Any:
    """What msgspec asks for a type it does not know: numpy's scalars and arrays both know `tolist`."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON or MessagePack")


def shorten(event: object) -> str:
    """The event as an error message shows it."""
    text = repr(event)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
