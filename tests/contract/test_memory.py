"""The contract suite on the in-memory backend, under asyncio and trio."""

from __future__ import annotations

from secrets import token_hex

import pytest

from eventml.backends import memory
from eventml.testing import contract

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]


@pytest.fixture
def harness() -> contract.Harness:
    """A hub of this test's own, reached by its name as a bus reaches it."""
    settings = memory.Settings(max_bytes=100_000)
    url = f"memory://contract-{token_hex(4)}"
    return contract.Harness(
        connect=lambda: memory.open(url, settings),
        declared=memory.capabilities(settings),
        patience=10.0,
        quiet=0.05,
    )


@pytest.mark.parametrize("case", contract.CASES, ids=str)
async def test_memory_keeps_the_contract(case: contract.Case, harness: contract.Harness) -> None:
    await contract.check(case, harness)
