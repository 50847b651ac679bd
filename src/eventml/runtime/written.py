"""What type the events have that a handler writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

from eventml.runtime.outputs import Prediction

if TYPE_CHECKING:
    from eventml.handlers import Handler


def output_event_type(handler: Handler) -> Any:
    """The type of the events that a handler publishes: numbers are wrapped."""
    kind = handler.output_type
    if kind is Any:
        kind = get_type_hints(handler.function).get("return", Any)
        return Prediction if hasattr(kind, "tolist") or hasattr(kind, "to_list") else Any
    numbers = kind in (bool, int, float) or get_origin(kind) is list or hasattr(kind, "tolist")
    return Prediction if numbers else kind
