"""The request for a group's committed offsets, in the version that can ask for stable ones (KIP-447).

aiokafka has only versions before it. Those return what was committed before a transaction that is about to
end, and, from a group coordinator that has just been started, what was committed seconds ago.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from aiokafka.errors import BrokerResponseError
from aiokafka.protocol import types
from aiokafka.protocol.api import Request, RequestStruct, Response

_TEXT: Final = types.CompactString("utf-8")
_TAGS: Final = ("tags", types.TaggedFields)
_PARTITION: Final = (
    ("partition", types.Int32),
    ("offset", types.Int64),
    ("leader_epoch", types.Int32),
    ("metadata", _TEXT),
    ("error_code", types.Int16),
    _TAGS,
)


class UnstableOffsetError(BrokerResponseError):  # type: ignore[misc] # aiokafka has no types
    """A transaction that commits the offset has not ended."""

    errno = 88
    message = "UNSTABLE_OFFSET_COMMIT"
    retriable = True


class _Response(Response):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = types.Schema(
        ("throttle_time_ms", types.Int32),
        ("topics", types.CompactArray(("topic", _TEXT), ("found", types.CompactArray(*_PARTITION)), _TAGS)),
        ("error_code", types.Int16),
        _TAGS,
    )


class _Request(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 9
    API_VERSION = 7
    RESPONSE_TYPE = _Response
    SCHEMA = types.Schema(
        ("group", _TEXT),
        (
            "topics",
            types.CompactArray(("topic", _TEXT), ("partitions", types.CompactArray(types.Int32)), _TAGS),
        ),
        ("require_stable", types.Boolean),
        _TAGS,
    )


class OffsetFetchRequest(Request[_Request]):  # type: ignore[misc]
    """Asks for the offsets that a group has committed of these partitions, by topic."""

    API_KEY: ClassVar[int] = 9

    def __init__(self, group: str, partitions: Mapping[str, Sequence[int]], *, stable: bool) -> None:
        self._group = group
        self._topics: list[Any] = [(topic, sorted(some), {}) for topic, some in partitions.items()]
        self._stable = stable

    def build(self, request_struct_class: type[_Request]) -> _Request:
        """The request as it is sent."""
        return request_struct_class(self._group, self._topics, self._stable, {})
