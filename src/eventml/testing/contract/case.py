"""A case of the contract: one promise, what it needs of the backend and its harness, and how it is checked.

Expectations are functions, not `assert` statements: pytest does not rewrite these in an installed package.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import anyio
import msgspec

from eventml.backends.base import Backend, Capabilities
from eventml.errors import PublishError
from eventml.records import Delivery, Record


class Harness(msgspec.Struct, frozen=True, kw_only=True):
    """How to connect to the backend under test, and how to disturb it.

    Only `connect` is required. A case that needs an attribute which is None is skipped, with the reason.

    Attributes:
        connect: Opens a connection. The suite keeps several open at a time, all to the same broker; a
            backend for a single process may return the same object each time. Each case uses topics and
            groups with new names, so cases may share a broker.
        declared: The result of the module's `capabilities(settings)` for the same settings.
        kill: Ends a connection (the object that `connect` gave) and its members without telling the
            broker, as SIGKILL would. The suite closes them when the case ends and ignores the errors.
        lease: Seconds after which a delivery is taken from a member that is alive but does nothing. Set a
            short one in tests. Needed where the backend redelivers by lease.
        freeze: A context manager that stops a connection's members while it is entered, as SIGSTOP does.
            Needed where a backend renews leases by itself; None where it does not.
        refused: Makes a record for a topic that the broker refuses for good (too large, say).
        patience: Seconds that a receive, a rebalance or the detection of a dead member may take. A passing
            case does not wait for it.
        quiet: Seconds without a delivery after which the suite concludes that none will come.
    """

    connect: Callable[[], AbstractAsyncContextManager[Backend]]
    declared: Capabilities | None = None
    kill: Callable[[Any], Awaitable[None]] | None = None
    lease: float | None = None
    freeze: Callable[[Any], AbstractAsyncContextManager[None]] | None = None
    refused: Callable[[str], Record] | None = None
    patience: float = 15.0
    quiet: float = 0.3


T = TypeVar("T")


class Case(msgspec.Struct, frozen=True):
    """One promise of `eventml.backends.base` and its check.

    Attributes:
        name: The promise in a few words: the name of the case's function.
        promise: The promise in full: the docstring of the case's function.
        run: Called with a `Trial`; raises AssertionError if the promise is broken.
        needs: Values, or tuples of values, that the backend's capabilities must have, by the capability's
            name. The case is skipped if one has another.
    """

    name: str
    promise: str
    run: Callable[[Any], Awaitable[None]]
    needs: Mapping[str, object]

    def __str__(self) -> str:
        return self.name


def case(**needs: object) -> Callable[[Callable[[Any], Awaitable[None]]], Case]:
    """Decorate a function as a case; its docstring is the promise."""
    return lambda function: Case(
        function.__name__, " ".join((function.__doc__ or "").split()), function, needs
    )


# Expectations

_SHOWN, _CHARACTERS = 10, 1_000  # ids that a message lists, and characters of a value in it


def expect(condition: object, message: str) -> None:
    """Fail with the message unless the condition is true."""
    if not condition:
        raise AssertionError(message)


def expect_equal(what: str, got: object, wanted: object) -> None:
    """Fail unless the two are equal; `what` names the value."""
    if got != wanted:
        raise AssertionError(f"{what}: expected {_shown(wanted)}, got {_shown(got)}")


def expect_same(got: Record, wanted: Record) -> None:
    """Fail unless two records are equal, to the byte."""
    for field in wanted.__struct_fields__:
        what = f"record {wanted.id!r}: its {field}"
        expect_equal(what, getattr(got, field), getattr(wanted, field))


def expect_lag(when: str, lag: Mapping[int, int] | int | None, wanted: int) -> None:
    """Fail unless the lag, of a group or of its partitions together, is exact, or None for unknown."""
    if lag is not None:
        expect_equal(f"the lag {when}", sum(lag.values()) if isinstance(lag, Mapping) else lag, wanted)


async def within(seconds: float, what: str, work: Awaitable[T]) -> T:
    """The result of `work`; fail, with `what` did not happen, if it takes longer than this."""
    with anyio.move_on_after(seconds):
        return await work
    raise AssertionError(f"{what} within {seconds:g} s")


async def expect_refused(work: Awaitable[None], position: int) -> None:
    """Fail unless `work` raises a PublishError that names this position only."""
    try:
        await work
    except PublishError as exc:
        expect_equal("the positions in PublishError.failed", sorted(exc.failed), [position])
    else:
        raise AssertionError("the call returned although the broker refused one of the records")


def ids(deliveries: Iterable[Delivery]) -> list[str]:
    """The record ids of deliveries, in order."""
    return [delivery.record.id for delivery in deliveries]


def expect_each_once(
    deliveries: Iterable[Delivery], records: Iterable[Record], what: str = "received"
) -> None:
    """Fail unless every record was delivered exactly once, and nothing else was."""
    got, wanted = Counter(ids(deliveries)), Counter(record.id for record in records)
    if missing := wanted - got:
        raise AssertionError(f"{len(missing)} of {len(wanted)} never {what}: {_some(missing)}")
    if more := got - wanted:
        raise AssertionError(f"{what} more often than published: {_some(more.elements())}")


def expect_in_order(deliveries: Iterable[Delivery], records: Iterable[Record]) -> None:
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
        expect_equal(f"the order of the records of key {key!r}", list(seen), [i for i in wanted if i in seen])
    expect(not came, f"records were delivered with unknown keys: {_some(map(repr, came))}")


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS // 2]}...{text[-_CHARACTERS // 2 :]}"
