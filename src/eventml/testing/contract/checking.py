"""Running one case against one backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from unittest import SkipTest

from eventml.testing.contract import expect
from eventml.testing.contract.trial import opened

if TYPE_CHECKING:
    from eventml.testing.contract.case import Case
    from eventml.testing.contract.harness import Harness

_STEPS: Final = 8  # what a case may take in all, in the harness's patience


async def check(case: Case, harness: Harness) -> None:
    """Hold a backend to one promise.

    Raises:
        AssertionError: the promise is broken; a note says which.
        unittest.SkipTest: the backend does not promise it, or the harness lacks what it takes to
            see. pytest takes that as a skip, with the reason.
    """
    try:
        await expect.within(
            _STEPS * harness.patience, lambda: "the case did not come to an end", _run(case, harness)
        )
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
    """The error to show: what the case found, sooner than what broke behind it."""
    leaves: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo[:0] = error.exceptions
        else:
            leaves.append(error)
    return next((error for error in leaves if isinstance(error, AssertionError)), leaves[0])
