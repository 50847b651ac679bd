"""What an app says of a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

if TYPE_CHECKING:
    from eventml.codec import Format


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """What the app says of a topic. Configuration may replace each (`[topic."<name>"]`).

    Attributes:
        event_type: The type of its events, for those who read them without a handler.
        id_field: The field of an event that is its id.
        codec: How its events are encoded.
    """

    event_type: Any = Any
    id_field: str | None = None
    codec: Format = "json"


class TopicChoices(TypedDict, total=False):
    """The keyword arguments of `Bus.topic`: the attributes of `Topic`."""

    event_type: Any
    id_field: str | None
    codec: Format
