"""The contract suite: each promise of `eventml.backends.base` is a case that a backend passes or fails.

In a plug-in's own tests:

    import pytest
    from eventml.testing import contract

    @pytest.fixture
    def harness():
        settings = my_backend.Settings()
        return contract.Harness(
            connect=lambda: my_backend.open(URL, settings), declared=my_backend.capabilities(settings)
        )

    @pytest.mark.anyio
    @pytest.mark.parametrize("case", contract.CASES, ids=str)
    async def test_contract(case, harness):
        await contract.check(case, harness)

A case is skipped, with the reason, if the backend's `Capabilities` do not include its promise, or if the
harness lacks what the case needs.

Read `case.py` (the harness that a backend's author provides, and what a case is), `trial.py` (the run of a
case), `loops.py`, then the cases: `publishing.py`, `consuming.py`, `groups.py`, `redelivery.py`,
`deduplication.py`. The suite imports `backends.base`, `records` and `errors`, and no backend.
"""

from __future__ import annotations

from typing import Final

from eventml.testing.contract import consuming, deduplication, groups, publishing, redelivery
from eventml.testing.contract.case import Case, Harness
from eventml.testing.contract.trial import check

__all__ = ["CASES", "Case", "Harness", "check"]

CASES: Final[tuple[Case, ...]] = tuple(
    value
    for module in (publishing, consuming, groups, redelivery, deduplication)
    for value in vars(module).values()
    if isinstance(value, Case)
)
"""All cases, in reading order."""
