"""Assertions with messages. No `assert` statements: pytest does not rewrite them in an installed package."""

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
    """Fail with the message unless the condition is true."""
    if not condition:
        raise AssertionError(message)


def equal(what: str, got: object, wanted: object) -> None:
    """Fail unless the two are equal; `what` names the value."""
    if got != wanted:
        raise AssertionError(f"{what}: expected {wanted!r}, got {got!r}")


def exact_or_unknown(what: str, got: object, wanted: object) -> None:
    """Fail unless the number is exact, or None for unknown."""
    if got is not None:
        equal(what, got, wanted)


async def within(seconds: float, what: Callable[[], str], work: Awaitable[T]) -> T:
    """The result of `work`; fail if it takes longer than this."""
    with anyio.move_on_after(seconds):
        return await work
    raise AssertionError(f"{what()} within {seconds:g} s")


def ids(deliveries: Iterable[Delivery]) -> list[str]:
    """The record ids of deliveries, in order."""
    return [delivery.record.id for delivery in deliveries]


def each_once(deliveries: Sequence[Delivery], records: Sequence[Record], what: str = "received") -> None:
    """Fail unless every record was delivered exactly once, and nothing else was."""
    got, wanted = Counter(ids(deliveries)), Counter(record.id for record in records)
    each_at_least_once(got, records, what)
    if more := got - wanted:
        raise AssertionError(f"{what} more often than published: {_some(more.elements())}")


def each_at_least_once(got: Iterable[str], records: Sequence[Record], what: str = "received") -> None:
    """Fail unless every record was delivered."""
    if missing := {record.id for record in records} - set(got):
        raise AssertionError(f"{len(missing)} of {len(records)} never {what}: {_some(missing)}")


def in_order(deliveries: Iterable[Delivery], records: Iterable[Record]) -> None:
    """Fail unless the delivered records of each key are in the order in which they were published.

    Only the first delivery of each record counts: a redelivery may repeat earlier records, but not skip any.
    """
    published: defaultdict[bytes | None, list[str]] = defaultdict(list)
    for record in records:
        published[record.key].append(record.id)
    came: defaultdict[bytes | None, dict[str, None]] = defaultdict(dict)
    for delivery in deliveries:
        came[delivery.record.key].setdefault(delivery.record.id)
    for key, wanted in published.items():
        seen = came.pop(key, {})
        equal(f"the order of the records of key {key!r}", list(seen), [i for i in wanted if i in seen])
    true(not came, f"records were delivered with unknown keys: {_some(map(repr, came))}")


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
