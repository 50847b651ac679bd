"""What travels: a record, and a delivery of it to one subscription.

A record carries CloudEvents 1.0 attributes around a plain value. In memory, headers have the names
of CloudEvents' binary binding for Kafka (`ce_type`, `content-type`); a backend with other customs
maps them at its edge.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

SPEC_VERSION: Final = "ce_specversion"
TYPE: Final = "ce_type"
SOURCE: Final = "ce_source"
CONTENT_TYPE: Final = "content-type"
MODEL: Final = "ce_model"
MODEL_VERSION: Final = "ce_modelversion"
PREDICTOR: Final = "ce_predictor"
TRACE_PARENT: Final = "ce_traceparent"
TRACE_STATE: Final = "ce_tracestate"

REPLY_TO: Final = "eventml-reply-to"
"""The header of a request: the topic where its sender reads the replies."""

REPLY_FROM: Final = "eventml-reply-from"
"""The header of a request that only the predictor of this name is to answer."""

REPLY: Final = "eventml-reply"
"""The header of a reply that is no output: NO_OUTPUT or FAILED. Where it is missing, it is one."""

NO_OUTPUT: Final = "none"
FAILED: Final = "error"

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
FIELDS: Final = "application/vnd.eventml.fields+json"
"""A JSON object whose values are all text, as in a Redis entry of flat fields: the codec converts
them to the event's types instead of refusing text where a number is wanted."""

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Record(msgspec.Struct, frozen=True, gc=False):
    """What travels on a topic.

    Attributes:
        topic: Where it goes.
        value: The event, encoded.
        key: Records with the same key keep their order, where the backend keeps any.
        id: Unique among the topic's records, as far as the producer says so. Never empty once received.
        headers: CloudEvents attributes and others. Shared between records and never changed: the
            attributes that do not differ from event to event cost nothing per event.
    """

    topic: str
    value: bytes
    key: bytes | None = None
    id: str = ""
    headers: Mapping[str, str] = NO_HEADERS


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A record as one subscription received it.

    Attributes:
        record: What was published; its id is filled in for a foreign record that had none.
        partition: Which part of the topic it came from; 0 where a backend has no partitions.
        offset: Its place there. Opaque: compare for equality only.
        timestamp: When the broker took it, in seconds since the epoch.
        attempt: How often it has been delivered to this group, this time included, from 1. Always 1
            on a backend that does not count (`Capabilities.counts_attempts`).
    """

    record: Record
    partition: int
    offset: int | str
    timestamp: float
    attempt: int = 1


def foreign_id(topic: str, partition: int, offset: int | str) -> str:
    """The id of a record whose producer gave it none: the same at every delivery."""
    return f"{topic}/{partition}/{offset}"


def prediction_id(input_id: str, suffix: str) -> str:
    """The id of what a handler made of an input: it repeats when the work is repeated.

    `suffix` is `<predictor>@<model version>`, or the handler's name alone where it has no model.
    """
    return f"{input_id}/{suffix}"
