"""A dead letter as a test reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventml.records import Record
from eventml.runtime import DLQ_PREFIX, describe

if TYPE_CHECKING:
    from collections.abc import Iterable


class DeadLetter(msgspec.Struct, frozen=True):
    """An event that a handler set aside.

    Attributes:
        handler: Whose it was.
        record: What was published, whole: its value, key and id, and the headers that say why.
        exception: The name of the exception's class.
        reason: The exception in one line.
        attempts: How often the event was tried.
        error: The exception itself, where the handler's own function raised it.
    """

    handler: str
    record: Record
    exception: str
    reason: str
    attempts: int
    error: Exception | None = None

    def __str__(self) -> str:
        return f"{self.handler} set {self.record.id} aside after {self.attempts} attempts: {self.reason}"


def read(handler: str, record: Record, raised: Iterable[Exception]) -> DeadLetter:
    """Read a record of a dead-letter topic, with the exception among those raised that it speaks of."""
    reason = record.headers[f"{DLQ_PREFIX}message"]
    return DeadLetter(
        handler=handler,
        record=record,
        exception=record.headers[f"{DLQ_PREFIX}exception"],
        reason=reason,
        attempts=int(record.headers[f"{DLQ_PREFIX}attempts"]),
        error=next((error for error in raised if describe(error).startswith(reason)), None),
    )
