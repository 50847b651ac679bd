"""Whether a backend can give what a handler asks for: a pure decision, taken before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.errors import UnsupportedError
from eventml.runtime.deadletters import dead_letter_topic

if TYPE_CHECKING:
    from eventml.backends.base import Capabilities
    from eventml.handlers import Handler


def check_supported(handler: Handler, capabilities: Capabilities) -> None:
    """Pass if the backend keeps what the handler asks for: a swap by config never weakens a promise unseen.

    Raises:
        UnsupportedError: it does not; says what to do.
    """
    if handler.options.ordered and capabilities.ordering != "per_key":
        held = (
            "keeps order only while a group has one member"
            if capabilities.ordering == "single_member"
            else "keeps no order"
        )
        raise UnsupportedError(
            f"consumer.{handler.name}.ordered: this backend {held}. Choose a backend that keeps order per "
            "key (kafka://, or memory:// in one process), set the backend up for a single consumer where "
            "its page says how, or drop ordered=True"
        )
    if handler.options.dedupe_window is not None and not capabilities.deduplicates:
        raise UnsupportedError(
            f"consumer.{handler.name}.dedupe_window: this backend does not remember which ids a group has "
            "finished. Choose one that does (redis://, or memory:// in one process), or drop "
            "dedupe_window and let the handler's side effects bear a repeat"
        )


def outputs_of(handler: Handler) -> list[str]:
    """The topics that a handler's completions may write to: its own, and its dead letters'."""
    letters = dead_letter_topic(handler.topic, handler.options.group)
    return [letters] if handler.to is None else [handler.to, letters]
