"""A case of the contract: one promise, what it needs, and how it is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from unittest import SkipTest

import msgspec

from eventml.backends.base import CreatesTopics
from eventml.testing.contract import expect
from eventml.testing.contract.trial import opened

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventml.backends.base import Backend
    from eventml.testing.contract.harness import Harness
    from eventml.testing.contract.trial import Trial


class Need(msgspec.Struct, frozen=True):
    """A precondition of a case.

    Attributes:
        lacking: Returns the reason to skip the case; None if the precondition is met.
    """

    lacking: Callable[[Backend, Harness], str | None]


def declared(name: str, *accepted: object) -> Need:
    """The backend declares this capability with one of these values."""

    def lacking(backend: Backend, _: Harness) -> str | None:
        value = getattr(backend.capabilities, name)
        wanted = " or ".join(map(repr, accepted))
        return None if value in accepted else f"{name} is {value!r}, this needs {wanted}"

    return Need(lacking)


def given(name: str) -> Need:
    """The harness has this attribute."""
    return Need(
        lambda _, harness: None if getattr(harness, name) is not None else f"the harness has no {name}"
    )


def _no_creating(backend: Backend, _: Harness) -> str | None:
    return None if isinstance(backend, CreatesTopics) else "the backend has no create_topics"


def _by_use(backend: Backend, harness: Harness) -> str | None:
    if isinstance(backend, CreatesTopics) or harness.create_topic is not None:
        return None
    return "a topic exists once it is used"


ORDER_PER_KEY: Final = declared("ordering", "per_key")
ORDER_OF_ONE_MEMBER: Final = declared("ordering", "per_key", "single_member")
BY_LEASE: Final = declared("redelivery", "lease")
ATOMIC: Final = declared("atomic_completion", True)
DURABLE: Final = declared("durable", True)
SHARED: Final = declared("shared", True)
DEDUPLICATES: Final = declared("deduplicates", True)
CREATES_TOPICS: Final = Need(_no_creating)
TOPICS_BEFOREHAND: Final = Need(_by_use)
DECLARED: Final = given("declared")
KILL: Final = given("kill")
LEASE: Final = given("lease")
REFUSED: Final = given("refused")


class Case(msgspec.Struct, frozen=True):
    """One promise of `eventml.backends.base` and its check.

    Attributes:
        name: The promise in a few words: the name of the case's function.
        promise: The promise in full: the docstring of the case's function.
        run: Raises AssertionError if the promise is broken.
        needs: Preconditions; the case is skipped if one is not met.
    """

    name: str
    promise: str
    run: Callable[[Trial], Awaitable[None]]
    needs: tuple[Need, ...] = ()

    def __str__(self) -> str:
        return self.name


def case(*needs: Need) -> Callable[[Callable[[Trial], Awaitable[None]]], Case]:
    """Decorate a function as a case; its docstring is the promise."""

    def make(function: Callable[[Trial], Awaitable[None]]) -> Case:
        return Case(function.__name__, " ".join((function.__doc__ or "").split()), function, needs)

    return make


_STEPS: Final = 8  # limit of a whole case, in multiples of the harness's patience


async def check(case: Case, harness: Harness) -> None:
    """Run one case against a backend.

    Raises:
        AssertionError: the promise is broken; a note on the exception states the promise.
        unittest.SkipTest: a precondition is not met. pytest reports it as a skip, with the reason.
    """
    try:
        await expect.within(_STEPS * harness.patience, lambda: "the case did not end", _run(case, harness))
    except ExceptionGroup as group:
        cause = _first(group)
        cause.add_note(f"contract: {case.name}: {case.promise}")
        raise cause from None
    except AssertionError as exc:
        exc.add_note(f"contract: {case.name}: {case.promise}")
        raise


async def _run(case: Case, harness: Harness) -> None:
    async with opened(harness) as trial:
        for need in case.needs:
            lacking = need.lacking(trial.backend, harness)
            if lacking is not None:
                raise SkipTest(f"{case.name}: {lacking}")
        await case.run(trial)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report: the first AssertionError, else the first error."""
    leaves: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo[:0] = error.exceptions
        else:
            leaves.append(error)
    return next((error for error in leaves if isinstance(error, AssertionError)), leaves[0])
