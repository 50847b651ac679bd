"""Dead letters: a record set aside whole, with why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from eventml.records import Record
from eventml.runtime.failures import describe
from eventml.runtime.traces import summarise

if TYPE_CHECKING:
    from eventml.backends.base import Completion
    from eventml.records import Delivery

DLQ_PREFIX: Final = "eventml-dlq-"
_TRACEBACK = 1_000  # characters of it that are kept


def dead_letter_topic(topic: str, group: str) -> str:
    return f"{topic}.{group}.dlq"


def dead_letter(
    delivery: Delivery, *, group: str, error: Exception, attempts: int = 1, first_failure: float | None = None
) -> Record:
    """The record for the dead-letter topic: value, key, id and headers untouched, and `eventml-dlq-*` added.

    Args:
        delivery: What is set aside.
        group: The consumer group that failed it.
        error: The last failure.
        attempts: How often the event was tried.
        first_failure: When it first failed, in seconds since the epoch; now, if it failed once.
    """
    record, now = delivery.record, time.time()
    why = {
        "topic": record.topic,
        "partition": str(delivery.partition),
        "offset": str(delivery.offset),
        "group": group,
        "attempts": str(max(attempts, delivery.attempt)),
        "first-failure": f"{now if first_failure is None else first_failure:.3f}",
        "last-failure": f"{now:.3f}",
        "exception": type(error).__qualname__,
        "message": describe(error),
    }
    if traceback := summarise(error, _TRACEBACK):
        why["traceback"] = traceback
    return Record(
        topic=dead_letter_topic(record.topic, group),
        value=record.value,
        key=record.key,
        id=record.id,
        headers={**record.headers, **{f"{DLQ_PREFIX}{name}": text for name, text in why.items()}},
    )


def is_letter(completion: Completion) -> bool:
    """Whether a delivery is set aside, and not answered."""
    return bool(completion.outputs) and f"{DLQ_PREFIX}group" in completion.outputs[0].headers
