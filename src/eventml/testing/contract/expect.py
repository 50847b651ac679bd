"""Saying what should have been, and what was. No `assert`: these run outside pytest's rewriting."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from eventml.records import Delivery, Record

T = TypeVar("T")

_SHOWN = 10  # ids that a message lists


def true(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def equal(what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise AssertionError(f"{what}: {got!r}, and not {wanted!r}")


def exact_or_unknown(what: str, got: object, wanted: object) -> None:
    """A number that a backend may not know, but never guess."""
    if got is not None:
        equal(what, got, wanted)


async def within(seconds: float, what: Callable[[], str], work: Awaitable[T]) -> T:
    """Fail if this is not done in time. A case that hangs is a case that fails."""
    with anyio.move_on_after(seconds):
        return await work
    raise AssertionError(f"{what()}, and nothing more in {seconds:g} s")


def ids(deliveries: Iterable[Delivery]) -> list[str]:
    return [delivery.record.id for delivery in deliveries]


def each_once(deliveries: Sequence[Delivery], records: Sequence[Record], what: str = "received") -> None:
    """Every record was delivered, none of them twice, and nothing else."""
    got, wanted = Counter(ids(deliveries)), Counter(record.id for record in records)
    each_at_least_once(got, records, what)
    if more := got - wanted:
        raise AssertionError(f"{what} more often than published: {_some(more.elements())}")


def each_at_least_once(got: Iterable[str], records: Sequence[Record], what: str = "received") -> None:
    """Every record was delivered."""
    if missing := {record.id for record in records} - set(got):
        raise AssertionError(f"{len(missing)} of {len(records)} never {what}: {_some(missing)}")


def in_order(deliveries: Iterable[Delivery], records: Iterable[Record]) -> None:
    """The records of each key came in the order of their publishing, as far as they came.

    What comes again counts by its first coming: a redelivery may go back, but may not jump ahead.
    """
    published: defaultdict[bytes | None, list[str]] = defaultdict(list)
    for record in records:
        published[record.key].append(record.id)
    came: defaultdict[bytes | None, dict[str, None]] = defaultdict(dict)
    for delivery in deliveries:
        came[delivery.record.key].setdefault(delivery.record.id)
    for key, wanted in published.items():
        seen = came.pop(key, {})
        equal(f"the records of key {key!r} came in the order", list(seen), [i for i in wanted if i in seen])
    true(not came, f"records came with keys that nobody published: {_some(map(repr, came))}")


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
