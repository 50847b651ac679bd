"""The backend contract: each promise of `eventml.backends.base`, as a case that a backend passes or not.

In a plug-in's own tests:

    import pytest
    from eventml.testing import contract

    @pytest.fixture
    def harness():
        settings = my_backend.Settings()
        return contract.Harness(
            connect=lambda: my_backend.open(URL, settings), told=my_backend.capabilities(settings)
        )

    @pytest.mark.anyio
    @pytest.mark.parametrize("case", contract.CASES, ids=str)
    async def test_contract(case, harness):
        await contract.check(case, harness)

A case whose promise the backend does not make (its `Capabilities` say so), or for which the harness
lacks the means, is skipped with that reason.
"""

from __future__ import annotations

from typing import Final

from eventml.testing.contract import (
    completing,
    groups,
    lagging,
    publishing,
    readers,
    rebalancing,
    receiving,
    redelivery,
    remembering,
    topics,
)
from eventml.testing.contract.case import Case
from eventml.testing.contract.checking import check
from eventml.testing.contract.harness import Harness

__all__ = ["CASES", "Case", "Harness", "check"]

CASES: Final[tuple[Case, ...]] = tuple(
    value
    for module in (
        topics,
        publishing,
        receiving,
        groups,
        completing,
        redelivery,
        remembering,
        rebalancing,
        readers,
        lagging,
    )
    for value in vars(module).values()
    if isinstance(value, Case)
)
"""Every case, in the order of reading."""
