"""Dead letters: records that a handler could not handle, kept whole with the reason.

A dead letter is the original record, published to `<topic>.<group>.dlq` with `eventml-dlq-*` headers added.
`DeadLetterWriter` makes them, `read_dead_letter` and `DeadLetterFilter` read and choose them; `replay.py`
gives them back to the handler.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from eventml.backends.base import Completion
from eventml.errors import CrashLoopError, PublishError, Reject, StaleError
from eventml.handlers import Handler
from eventml.printable import cut, printable, valid_unicode
from eventml.records import Delivery, Record
from eventml.runtime.failures.exceptions import (
    describe,
    failure_cause,
    leaves,
    own_message,
    summarise_traceback,
)
from eventml.runtime.tracing import HandlerTracing

log = logging.getLogger("eventml")

DLQ_PREFIX: Final = "eventml-dlq-"
"""Prefix of the headers that say why a record is a dead letter."""

MISPLACED: Final = (
    "their headers name another topic or consumer group than the handler's: forged or copied by somebody who "
    "may write to its dead-letter topic. `eventml dlq show` shows them, `eventml dlq drop` removes them"
)
"""Why a dead letter that its queue does not own is not replayed."""

_INTENDED: Final = (Reject, StaleError, CrashLoopError)

_MAX_REASON: Final = 1_000  # characters of the exception, the message and the traceback, each


def dead_letter_topic(topic: str, group: str) -> str:
    """The topic of the dead letters of one consumer group at one topic."""
    return f"{topic}.{group}.dlq"


class DeadLetterCompletion(Completion, frozen=True, gc=False):
    """The completion of a delivery that is moved to the dead letters.

    Attributes:
        cause: Why it failed, without values of the event; see `failure_cause`.
        intended: Whether it is no failure of the handler: it rejected the event, the event came too late, or
            the event kills its worker.
        error_type: The class of the failure; of a group of intended ones, that of the first.
        message: The failure's own message, without that of its cause, in one line.
        time: When it was written, by `time.monotonic`.
    """

    cause: str = ""
    intended: bool = False
    error_type: type[BaseException] = Exception
    message: str = ""
    time: float = 0.0


class DeadLetterWriter:
    """Moves deliveries of one handler to its dead letters, each with a span.

    Args:
        translate: Returns the error to report for the one that happened.
        tracing: Records the dead letters; None if tracing is off.

    Attributes:
        uncounted: How many were written and neither counted nor kept back.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        translate: Callable[[Exception], Exception],
        tracing: HandlerTracing | None = None,
    ) -> None:
        self._name = handler.name
        self._group = handler.options.group
        self._tracing = tracing
        self.uncounted = 0
        self._translate = translate

    def write(
        self, delivery: Delivery, error: Exception, *, attempts: int = 1, first_failure: float | None = None
    ) -> DeadLetterCompletion:
        """The completion that moves a delivery to the dead letters after so many attempts.

        `first_failure` is in seconds since the epoch; None if the event has failed once, now.
        """
        record, now = delivery.record, time.time()
        error = self._translate(error)
        reason = {
            "topic": record.topic,
            "partition": str(delivery.partition),
            "offset": str(delivery.offset),
            "group": self._group,
            "attempts": str(max(attempts, delivery.attempt)),
            "first-failure": f"{now if first_failure is None else first_failure:.3f}",
            "last-failure": f"{now:.3f}",
            "exception": type(error).__qualname__,
            "message": describe(error),
        }
        if traceback := summarise_traceback(error, _MAX_REASON):
            reason["traceback"] = traceback
        # A publisher's own headers of this prefix would be shown as the handler's failure.
        headers = {name: text for name, text in record.headers.items() if not name.startswith(DLQ_PREFIX)}
        headers |= {f"{DLQ_PREFIX}{name}": text for name, text in reason.items()}
        topic = dead_letter_topic(record.topic, self._group)
        self.uncounted += 1
        if self._tracing is not None:
            self._tracing.dead_letter(record.headers, error, topic)
        dead_letter = Record(topic, record.value, record.key, record.id, headers)
        causes = leaves(error)
        intended = all(isinstance(one, _INTENDED) for one in causes)
        shown = causes[0] if intended else error
        return DeadLetterCompletion(
            delivery,
            (dead_letter,),
            dead_letter=True,
            cause=failure_cause(error),
            intended=intended,
            error_type=type(shown),
            message=printable(cut(own_message(shown), _MAX_REASON)),
            time=time.monotonic(),
        )

    def replace(self, refused: Completion, reason: str) -> Completion:
        """The completion in place of one that the broker refuses (because it is too large, for example).

        The delivery is moved to the dead letters. A refused dead letter is returned unchanged, to be offered
        again: no other topic may have it.
        """
        if not refused.dead_letter:
            return self.write(refused.delivery, PublishError(reason))
        log.error(
            "%s: the broker refuses the dead letter of %s: %s. The handler waits until it is accepted; check "
            "the topic %s and the right to write to it",
            *(self._name, printable(cut(refused.delivery.record.id)), reason, refused.outputs[0].topic),
        )
        return refused

    def count(self, completed: Sequence[Completion]) -> int:
        """How many of these completions are dead letters. Free while all that were written are counted."""
        if not self.uncounted:
            return 0
        found = sum(completion.dead_letter for completion in completed)
        self.uncounted -= found
        return found


class DeadLetterDelivery(msgspec.Struct, frozen=True, rename="kebab"):
    """A dead letter as it was received.

    All of it but the delivery's topic is what its writer says: whoever may write to a dead-letter topic can
    forge dead letters. `DeadLetterQueue.owns` tells whether it lies where it belongs.

    Attributes:
        delivery: The delivery of the dead letter. Its record's value, key and id are those of the event.
        topic: The topic that the event was received from.
        partition: The event's partition there.
        offset: The event's offset there.
        group: The consumer group that failed.
        attempts: How often the event was tried.
        first_failure: In seconds since the epoch.
        last_failure: In seconds since the epoch.
        exception: The class of the last failure, by its name.
        message: The last failure in one line.
        traceback: The frames of the handler's own code; empty if no handler raised the exception.
    """

    delivery: Delivery
    topic: str
    partition: str
    offset: str
    group: str
    attempts: int
    first_failure: float
    last_failure: float
    exception: str = ""
    message: str = ""
    traceback: str = ""

    @property
    def id(self) -> str:
        """The event's id."""
        return self.delivery.record.id

    @property
    def origin(self) -> str:
        """Where the event was received from: the same for both dead letters that a crash may leave of it."""
        return f"{self.topic}/{self.partition}/{self.offset}"


def read_dead_letter(delivery: Delivery) -> DeadLetterDelivery | None:
    """Read a delivery of a dead-letter topic; None if its record is not a dead letter.

    Its texts can be encoded in UTF-8; a header that could not has escapes in their place. The exception, the
    message and the traceback are cut to 1,000 characters, whatever the record holds.
    """
    fields: dict[str, Any] = {
        name.removeprefix(DLQ_PREFIX): valid_unicode(text)
        for name, text in delivery.record.headers.items()
        if name.startswith(DLQ_PREFIX)
    }
    fields |= {n: cut(fields[n], _MAX_REASON) for n in ("exception", "message", "traceback") if n in fields}
    try:
        return msgspec.convert({**fields, "delivery": delivery}, DeadLetterDelivery, strict=False)
    except msgspec.ValidationError:
        return None


class DeadLetterQueue(msgspec.Struct, frozen=True):
    """The dead letters of one consumer group at one topic.

    Attributes:
        handlers: The names of the handlers of that group; more than one if several share it.
        topic: The topic that the handlers read.
        group: Their consumer group.
    """

    handlers: tuple[str, ...]
    topic: str
    group: str

    @property
    def dead_letter_topic(self) -> str:
        """The topic of the dead letters."""
        return dead_letter_topic(self.topic, self.group)

    @property
    def replay_group(self) -> str:
        """The consumer group of those who replay and drop. A dead letter that it has completed is gone."""
        return f"{self.group}.replay"

    @property
    def name(self) -> str:
        """The names of its handlers, for output."""
        return ", ".join(self.handlers)

    def owns(self, dead_letter: DeadLetterDelivery) -> bool:
        """Whether a dead letter names this topic and this group; else it is misplaced, and not replayed.

        Both names are compared, not the topic that they add up to: `a.b` and `c` have the dead-letter topic
        of `a` and `b.c`, so that a right to write to `a.b.*` would reach `a`.
        """
        return (dead_letter.topic, dead_letter.group) == (self.topic, self.group)


def dead_letter_queues(handlers: Iterable[Handler]) -> list[DeadLetterQueue]:
    """The dead-letter queues of these handlers, one for each topic and group."""
    names: dict[tuple[str, str], list[str]] = {}
    for handler in handlers:
        names.setdefault((handler.topic, handler.options.group), []).append(handler.name)
    return [DeadLetterQueue(tuple(sharing), topic, group) for (topic, group), sharing in names.items()]
