"""Records on their way to the server, and what became of each: decisions, without the sending."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.backends.redis.replies import ErrorReply, error_for, full
from eventml.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.redis.adding import Mark, Outcome
    from eventml.records import Record


class Write:
    """Records that go together.

    Attributes:
        records: All of them.
        left: The positions of those that are neither added nor refused for good.
        refused: Why those were that were, by position.
        marks: What marks each record, where the server recognises repeats.
        full: What the server said, if it had no memory left when last asked.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.left: Sequence[int] = range(len(records))
        self.refused: dict[int, str] = {}
        self.marks: Sequence[Mark] = ()
        self.full = ""

    def records_left(self) -> Sequence[Record]:
        return self.records if len(self.left) == len(self.records) else [self.records[n] for n in self.left]

    def marks_left(self) -> Sequence[Mark]:
        return [self.marks[number] for number in self.left] if self.marks else ()

    def settle(self, outcomes: Sequence[Outcome]) -> UnavailableError | None:
        """Take in what became of those that were left. Returns why to try again later, if that is so."""
        self.full = ""
        if ErrorReply not in set(map(type, outcomes)):
            self.left = ()
            return None
        undone: dict[int, ErrorReply] = {}
        later: UnavailableError | None = None
        final = False
        for number, reply in zip(self.left, outcomes, strict=True):
            if reply is None:
                continue
            error = error_for(reply, f"publishing to {self.records[number].topic!r}")
            if isinstance(error, UnavailableError):
                later = later or error
                self.full = self.full or (str(error) if full(reply) else "")
                undone[number] = reply
            elif reply.code == "EXECABORT":
                undone[number] = reply
            else:
                self.refused[number] = str(error)
                final = True
        self.left = list(undone)
        if final or not undone:  # without those that were refused, the others may pass at once
            return None
        return later or UnavailableError(str(next(iter(undone.values()))))

    def refuse_larger(self, limit: int) -> bool:
        """Refuse those with a part of more bytes than the server takes. Returns whether there were any."""
        before = len(self.left)
        for number in self.left:
            if size(self.records[number]) > limit:
                self._refuse(
                    number, f"it is larger than the {limit} bytes that the server takes (proto-max-bulk-len)"
                )
        return len(self.left) < before

    def refuse_unencodable(self) -> None:
        """Refuse those that hold text with no form in UTF-8."""
        for number in self.left:
            record = self.records[number]
            try:
                "".join((record.topic, record.id, *record.headers, *record.headers.values())).encode()
            except UnicodeEncodeError as exc:
                self._refuse(number, f"its id or its headers have no form in UTF-8: {exc}")

    def _refuse(self, number: int, why: str) -> None:
        self.refused[number] = why
        self.left = [other for other in self.left if other != number]


def size(record: Record) -> int:
    """The bytes of a record's largest part, which the server takes or hangs up on."""
    return max(len(record.value), len(record.key or b""), len(record.id))
