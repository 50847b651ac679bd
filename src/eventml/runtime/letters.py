"""Reading dead letters: what one says, which ones are wanted, and where a group's are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventml.records import Delivery
from eventml.runtime.deadletters import DLQ_PREFIX, dead_letter_topic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventml.handlers import Handler


class DeadLetter(msgspec.Struct, frozen=True):
    """A dead letter as it was received.

    Attributes:
        delivery: Of the letter itself; its record's value, key and id are the event's own.
        topic: Where the event came from.
        partition: Of that topic.
        offset: There.
        group: The consumer group that failed it.
        attempts: How often it was tried.
        first_failure: In seconds since the epoch.
        last_failure: In seconds since the epoch.
        exception: The class of the last failure.
        message: The last failure in one line.
        traceback: Where in the handler's own code it happened; empty where no handler raised it.
    """

    delivery: Delivery
    topic: str
    partition: str
    offset: str
    group: str
    attempts: int
    first_failure: float
    last_failure: float
    exception: str
    message: str
    traceback: str

    @property
    def id(self) -> str:
        return self.delivery.record.id

    @property
    def origin(self) -> str:
        """The event's place. A crash may have it set aside twice: both letters name the same one."""
        return f"{self.topic}/{self.partition}/{self.offset}"


def read_dead_letter(delivery: Delivery) -> DeadLetter | None:
    """What a record on a dead-letter topic says; None if it is no dead letter, but somebody else's."""
    said = delivery.record.headers

    def header(name: str) -> str:
        return said.get(DLQ_PREFIX + name, "")

    try:
        return DeadLetter(
            delivery=delivery,
            topic=said[f"{DLQ_PREFIX}topic"],
            partition=header("partition"),
            offset=header("offset"),
            group=said[f"{DLQ_PREFIX}group"],
            attempts=int(header("attempts")),
            first_failure=float(header("first-failure")),
            last_failure=float(header("last-failure")),
            exception=header("exception"),
            message=header("message"),
            traceback=header("traceback"),
        )
    except (KeyError, ValueError):
        return None


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are wanted: those that pass every condition that is set.

    Attributes:
        ids: Of these events.
        exceptions: Failed with an exception of one of these classes, each by its name.
        since: Failed last at this time or later, in seconds since the epoch.
        until: Failed last before this time.
    """

    ids: frozenset[str] = frozenset()
    exceptions: frozenset[str] = frozenset()
    since: float | None = None
    until: float | None = None

    def takes(self, letter: DeadLetter) -> bool:
        return (
            (not self.ids or letter.id in self.ids)
            and (not self.exceptions or letter.exception in self.exceptions)
            and (self.since is None or letter.last_failure >= self.since)
            and (self.until is None or letter.last_failure < self.until)
        )


class DeadLetterQueue(msgspec.Struct, frozen=True):
    """Where one group's dead letters are.

    Attributes:
        handlers: The names of the handlers that write them; one, unless several share a group.
        topic: What those handlers read.
        group: Theirs.
    """

    handlers: tuple[str, ...]
    topic: str
    group: str

    @property
    def letters(self) -> str:
        """The topic of the dead letters."""
        return dead_letter_topic(self.topic, self.group)

    @property
    def readers(self) -> str:
        """The consumer group of those who replay and drop: what it has finished is done with."""
        return f"{self.group}.replay"


def dead_letter_queues(handlers: Iterable[Handler]) -> list[DeadLetterQueue]:
    """The boxes of these handlers."""
    names: dict[tuple[str, str], list[str]] = {}
    for handler in handlers:
        names.setdefault((handler.topic, handler.options.group), []).append(handler.name)
    return [DeadLetterQueue(tuple(theirs), topic, group) for (topic, group), theirs in names.items()]
