"""Records, as the commands that add them to their topics."""

from __future__ import annotations

import secrets
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from eventml.backends.redis.commands import bulk, pack
from eventml.backends.redis.replies import ErrorReply
from eventml.backends.redis.wire import DATA, ID, KEY, META

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventml.backends.redis.wire import HeaderEncoder
    from eventml.records import Record

    Mark = tuple[bytes, bytes, bytes]
    Outcome = ErrorReply | None

RECORDS: Final = 1_000
BYTES: Final = 4_000_000
"""Of one write: beyond that a larger one gains nothing and holds others up."""

REMEMBERED: Final = 100
"""How many ids Redis remembers of one producer, for recognising a repeat (IDMP-MAXSIZE's default)."""

_MULTI: Final = pack("MULTI")
_EXEC: Final = pack("EXEC")
_ID, _KEY = bulk(ID), bulk(KEY)


def writes(records: Sequence[Record]) -> Iterator[range]:
    """The positions of the records that go together in one write, in their order."""
    start = size = 0
    for position, record in enumerate(records):
        if position > start and (position - start >= RECORDS or size + len(record.value) > BYTES):
            yield range(start, position)
            start, size = position, 0
        size += len(record.value)
    if records:
        yield range(start, len(records))


class Producers:
    """Names to write under, so that the server knows a repeat when it sees one (Redis 8.6, IDMP).

    Redis remembers the last 100 ids of each name, so a name has at most 100 records on their way; a
    write takes as many names as it needs, and gives them back once it is answered.
    """

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._names = count()
        self._free: list[bytes] = []
        self._numbers = count()

    def take(self, records: int) -> list[bytes]:
        """Names for so many records."""
        wanted = -(-records // REMEMBERED)
        return [
            self._free.pop() if self._free else f"{self._prefix}-{next(self._names)}".encode()
            for _ in range(wanted)
        ]

    def give_back(self, names: Sequence[bytes]) -> None:
        """Names whose records were all answered. Others are given up: theirs may still arrive."""
        self._free += names

    def marks(self, names: Sequence[bytes], records: int) -> list[Mark]:
        """What marks each record as one of its kind."""
        return [
            (b"IDMP", names[position // REMEMBERED], b"%d" % next(self._numbers))
            for position in range(records)
        ]


def pack_write(records: Sequence[Record], headers: HeaderEncoder, marks: Sequence[Mark] = ()) -> bytes:
    """The commands that add these records; in one transaction, if there are several.

    A transaction is refused as a whole where one of its commands would be: a server that has run out
    of memory never takes the later of two records and not the earlier.

    Args:
        records: What to add, in this order.
        headers: Encodes headers.
        marks: One for each record, if repeats are to be recognised.

    Raises:
        UnicodeEncodeError: a text has no form in UTF-8.
    """
    parts = [_MULTI] if len(records) > 1 else []
    last: Record | None = None
    head = tail = b""
    for position, record in enumerate(records):
        if marks:
            head, tail = _around(record, headers.encode(record.headers), marks[position])
        elif last is None or not _alike(record, last):
            head, tail = _around(record, headers.encode(record.headers))
            last = record
        value = record.value
        if record.id:
            id_ = record.id.encode()
            part = b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n%b" % (head, len(value), value, _ID, len(id_), id_, tail)
        else:
            part = b"%b$%d\r\n%b\r\n%b" % (head, len(value), value, tail)
        if record.key is not None:
            part += _KEY + bulk(record.key)
        parts.append(part)
    if len(records) > 1:
        parts.append(_EXEC)
    return b"".join(parts)


def expected(records: int) -> int:
    """How many replies a write of so many records has."""
    return records + 2 if records > 1 else records


def outcomes(replies: Sequence[Any], records: int) -> list[Outcome]:
    """What became of each record of a write."""
    if records == 1:
        return [_outcome(replies[0])]
    begun, added = replies[0], replies[-1]
    if type(begun) is ErrorReply:  # no transaction, so each record went by itself
        return [_outcome(reply) for reply in replies[1:-1]]
    if type(added) is list:
        return [_outcome(reply) for reply in added]
    # Aborted. Those that were refused in the queue say why; the others would have passed.
    return [reply if type(reply) is ErrorReply else added for reply in replies[1:-1]]


def _outcome(reply: Any) -> Outcome:
    return reply if type(reply) is ErrorReply else None


def _alike(record: Record, other: Record) -> bool:
    return (
        record.headers is other.headers
        and record.topic == other.topic
        and (record.key is None) is (other.key is None)
        and bool(record.id) is bool(other.id)
    )


def _around(record: Record, meta: bytes, mark: Sequence[bytes] = ()) -> tuple[bytes, bytes]:
    """What comes before a record's value, and what after its id."""
    arguments = (b"XADD", record.topic.encode(), *mark, b"*")
    fields = 1 + bool(record.id) + bool(meta) + (record.key is not None)
    head = b"*%d\r\n" % (len(arguments) + 2 * fields) + b"".join(map(bulk, arguments)) + bulk(DATA)
    return head, bulk(META) + bulk(meta) if meta else b""
