"""The suite can fail: each case passes a sound backend, and finds the one that breaks its promise."""

from __future__ import annotations

import pytest

from eventml.testing import contract
from tests.contract import (  # noqa: F401 - the broken ones register themselves
    broken_deduplication,
    broken_finishing,
    broken_reading,
    broken_writing,
    sound,
)
from tests.contract.breaking import BROKEN

pytestmark = pytest.mark.anyio

CASES = {case.name: case for case in contract.CASES}
MEANT = [(backend, case) for backend, (_, cases) in BROKEN.items() for case in cases]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("case", contract.CASES, ids=str)
async def test_a_backend_that_promises_everything_is_held_to_everything(case: contract.Case) -> None:
    """Nothing is skipped here, so no case passes by being left out."""
    await contract.check(case, sound.harness())


@pytest.mark.parametrize(("backend", "case"), MEANT)
async def test_a_broken_promise_is_found(backend: str, case: str) -> None:
    connection, _ = BROKEN[backend]
    with pytest.raises(AssertionError) as found:
        await contract.check(CASES[case], sound.harness(connection, patience=0.3))
    assert any(note.startswith(f"contract: {case}: ") for note in found.value.__notes__)


def test_every_case_has_a_backend_that_fails_it() -> None:
    assert {case for _, case in MEANT} == set(CASES)
