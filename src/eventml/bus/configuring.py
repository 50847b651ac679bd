"""What configuration says, laid over what the app says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventml.bus.topic import Topic

if TYPE_CHECKING:
    from eventml.handlers import Handler


def configured_handler(handler: Handler, settings: msgspec.Struct | None) -> Handler:
    """A handler with the model and the options that its settings name."""
    said = _said(settings)
    model = said.pop("model", handler.model)
    options = msgspec.structs.replace(handler.options, **said)
    return msgspec.structs.replace(handler, model=model, options=options)


def configured_topic(topic: Topic, settings: msgspec.Struct | None) -> Topic:
    """A topic with the format and the ids that its settings name; what else they say is the broker's."""
    known = {field: value for field, value in _said(settings).items() if field in Topic.__struct_fields__}
    return msgspec.structs.replace(topic, **known)


def _said(settings: msgspec.Struct | None) -> dict[str, Any]:
    """What configuration says, without what it is silent of."""
    said = {} if settings is None else msgspec.structs.asdict(settings)
    return {field: value for field, value in said.items() if value is not None}
