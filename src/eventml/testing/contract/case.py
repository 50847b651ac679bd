"""A case of the contract: one promise, and what a backend must declare for it to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from eventml.backends.base import CreatesTopics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventml.backends.base import Backend
    from eventml.testing.contract.harness import Harness
    from eventml.testing.contract.trial import Trial


class Need(msgspec.Struct, frozen=True):
    """Something without which a case says nothing.

    Attributes:
        lacking: Why the case is skipped; None if the need is met.
    """

    lacking: Callable[[Backend, Harness], str | None]


def declared(name: str, *accepted: object) -> Need:
    """A capability, and the values of it that will do."""

    def lacking(backend: Backend, _: Harness) -> str | None:
        value = getattr(backend.capabilities, name)
        wanted = " or ".join(map(repr, accepted))
        return None if value in accepted else f"{name} is {value!r}, this needs {wanted}"

    return Need(lacking)


def given(name: str) -> Need:
    """Something of the harness."""
    return Need(
        lambda _, harness: None if getattr(harness, name) is not None else f"the harness has no {name}"
    )


def _no_creating(backend: Backend, _: Harness) -> str | None:
    return None if isinstance(backend, CreatesTopics) else "the backend has no create_topics"


def _by_use(backend: Backend, harness: Harness) -> str | None:
    if isinstance(backend, CreatesTopics) or harness.create_topic is not None:
        return None
    return "topics come into being by being used"


ORDER_PER_KEY: Final = declared("ordering", "per_key")
ORDER_OF_ONE_MEMBER: Final = declared("ordering", "per_key", "single_member")
BY_LEASE: Final = declared("redelivery", "lease")
ATOMIC: Final = declared("atomic_completion", True)
DURABLE: Final = declared("durable", True)
SHARED: Final = declared("shared", True)
REMEMBERS: Final = declared("deduplicates", True)
REMEMBERS_FOR_ALL: Final = declared("deduplicates", True)
CREATES_TOPICS: Final = Need(_no_creating)
TOPICS_BEFOREHAND: Final = Need(_by_use)
TOLD: Final = given("told")
KILL: Final = given("kill")
LEASE: Final = given("lease")
REFUSED: Final = given("refused")


class Case(msgspec.Struct, frozen=True):
    """One promise of `eventml.backends.base`, and how to see whether it is kept.

    Attributes:
        name: What holds.
        promise: The same, in full.
        run: Raises AssertionError if it does not.
        needs: What must be there for the case to run.
    """

    name: str
    promise: str
    run: Callable[[Trial], Awaitable[None]]
    needs: tuple[Need, ...] = ()

    def __str__(self) -> str:
        return self.name


def case(*needs: Need) -> Callable[[Callable[[Trial], Awaitable[None]]], Case]:
    """Make a case of a function: its name and its docstring say what it holds a backend to."""

    def make(function: Callable[[Trial], Awaitable[None]]) -> Case:
        return Case(function.__name__, " ".join((function.__doc__ or "").split()), function, needs)

    return make
