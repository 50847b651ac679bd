"""Records, which travel on topics, and deliveries of them to subscriptions.

A record carries CloudEvents 1.0 attributes around a plain value. In memory, headers have the names of
CloudEvents' binary binding for Kafka (`ce_type`, `content-type`); a backend that stores them in another form
converts them.
"""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

SPEC_VERSION: Final = "ce_specversion"
TYPE: Final = "ce_type"
SOURCE: Final = "ce_source"
CONTENT_TYPE: Final = "content-type"
MODEL: Final = "ce_model"
MODEL_VERSION: Final = "ce_modelversion"
PREDICTOR: Final = "ce_predictor"

REPLY_TO: Final = "eventml-reply-to"
"""Header of a request: the topic where its sender reads the replies."""

REPLY_FROM: Final = "eventml-reply-from"
"""Header of a request: the name of the only predictor that shall reply. Without it all do."""

REPLY: Final = "eventml-reply"
"""Header of a reply that is not one output: NO_OUTPUT, FAILED, or SEVERAL for a list of outputs."""

NO_OUTPUT: Final = "none"
FAILED: Final = "error"
SEVERAL: Final = "list"

REPLAY_GROUP: Final = "eventml-replay-group"
"""Header of a replayed dead letter: the only consumer group whose handlers are called for it."""

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
FIELDS: Final = "application/vnd.eventml.fields+json"
"""Content type of a JSON object whose values are all strings, as in a Redis entry of flat fields: the codec
converts them to the types of the event's fields."""

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class _Tombstone(bytes):
    """The type of `TOMBSTONE`."""


TOMBSTONE: Final[bytes] = _Tombstone()
"""Value of a record that has none, which says that there is no event of its key any more. It equals `b""`:
compare with `is`. Only backends with `Capabilities.tombstones` deliver and take it."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record on a topic.

    Attributes:
        topic: The name of the topic.
        value: The encoded event, or `TOMBSTONE`.
        key: Records with the same key keep their order, where the backend keeps any.
        id: The producer's id of the event, unique in the topic if the producer keeps it so. Never empty in a
            delivery.
        headers: CloudEvents attributes and others. Records share a mapping, which is never changed, so that
            attributes that are the same for many events cost nothing per event.
    """

    topic: str
    value: bytes
    key: bytes | None = None
    id: str = ""
    headers: Mapping[str, str] = NO_HEADERS


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A record as one subscription received it.

    Attributes:
        record: The published record. If it had no id, it has one now (`foreign_id`).
        partition: The partition it came from; 0 on a backend without partitions.
        offset: Its offset in the partition. Opaque: compare for equality only.
        timestamp: When the broker received the record, in seconds since the epoch.
        attempt: The number of this group's attempt at the event, from 1. A worker that dies or leaves in the
            call of a handler ends the attempt of the events of that call; of first deliveries all that it had
            received, since which of them were in the call is not known. Always 1 on a backend that does not
            count (`Capabilities.counts_attempts`).
    """

    record: Record
    partition: int
    offset: int | str
    timestamp: float
    attempt: int = 1

    @property
    def topic(self) -> str:
        """The record's topic."""
        return self.record.topic

    @property
    def id(self) -> str:
        """The event's id."""
        return self.record.id

    @property
    def key(self) -> bytes | None:
        """The event's key; None if it has none."""
        return self.record.key

    @property
    def headers(self) -> Mapping[str, str]:
        """The record's headers, CloudEvents attributes among them."""
        return self.record.headers


class Output(msgspec.Struct, frozen=True):
    """An output with a key, headers or a topic of its own; a predictor may return it in place of its value.

    Attributes:
        value: The output; None for no output.
        key: Key of its record, text or bytes; by default that of its input, whose order it then keeps.
        headers: Headers added to its record, texts by name. Those that the library writes cannot be replaced.
        topic: One of the predictor's topics; by default the one that has the value's type.

    Other values of these attributes fail the event, with an `OutputError`.
    """

    value: Any
    key: str | bytes | None = None
    headers: Mapping[str, str] = NO_HEADERS
    topic: str | None = None


def is_text(value: object, errors: str = "strict") -> bool:
    """Whether a value is text that UTF-8 can encode, with this handler of errors."""
    try:
        return isinstance(value, str) and value.encode(errors=errors) is not None
    except UnicodeEncodeError:
        return False


def is_key(value: object) -> bool:
    """Whether a value can be the key of a record: text, bytes or None."""
    return value is None or isinstance(value, bytes) or is_text(value)


def are_headers(value: object) -> bool:
    """Whether a value can be the headers of a record: texts by name, as deliveries have them."""
    # Bytes of a delivery's header that are not UTF-8 are escaped by surrogates.
    return isinstance(value, Mapping) and all(
        is_text(text, "surrogateescape") for pair in value.items() for text in pair
    )


def foreign_id(topic: str, partition: int, offset: int | str) -> str:
    """The id of a record that was published without one: the same at every delivery."""
    return f"{topic}/{partition}/{offset}"


def count_bytes(deliveries: Iterable[Delivery]) -> int:
    """The bytes of the values, keys and ids of deliveries."""
    return sum([len((r := delivery.record).value) + len(r.key or b"") + len(r.id) for delivery in deliveries])


def count_fitting(deliveries: Iterable[Delivery], max_bytes: float) -> int:
    """How many of the first deliveries have so many bytes of values, keys and ids together, at most."""
    count, left = 0, max_bytes
    for delivery in deliveries:
        record = delivery.record
        left -= len(record.value) + len(record.key or b"") + len(record.id)
        if left < 0:
            break
        count += 1
    return count
