"""An event's id, as a producer would give it: what the caller says, its topic's field, or a number."""

from __future__ import annotations

import secrets
from itertools import count
from typing import Any

import msgspec


class Identifier:
    """Gives events ids.

    Args:
        id_field: The field of an event that is its id, if one is.
        event_type: The event's type.
    """

    def __init__(self, id_field: str | None, event_type: Any) -> None:
        self._decode = None if id_field is None else _decoder(id_field, event_type)
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)

    def __call__(self, event: bytes, said: str | None = None) -> str:
        """The id of an event, which need not be a good one: that shows when it is decoded."""
        if said is not None:
            return said
        if self._decode is not None:
            try:
                return str(self._decode(event).id)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        return f"{self._prefix}-{next(self._numbers)}"


def _decoder(id_field: str, event_type: Any) -> Any:
    """Decodes that field alone, in its own type: `str` of it is then what a producer makes of it."""
    name, kind = id_field, Any
    if isinstance(event_type, type) and issubclass(event_type, msgspec.Struct):
        for field in msgspec.structs.fields(event_type):
            if field.name == id_field:
                name, kind = field.encode_name, field.type
    id_alone = msgspec.defstruct("IdAlone", [("id", kind)], rename={"id": name})
    return msgspec.json.Decoder(id_alone).decode
