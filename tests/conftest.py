"""What all tests share: real brokers where they can run, and the event loop to run under."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for backends/, examples/ and tests.brokers, which are not installed

pytest_plugins = ["tests.brokers", "tests.databases"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the storms, so that CI can leave them to `make chaos`."""
    for item in items:
        if (ROOT / "tests" / "chaos") in item.path.parents:
            item.add_marker("chaos")


@pytest.fixture
def anyio_backend() -> str:
    """asyncio, unless a test asks for more: `parametrize("anyio_backend", ["asyncio", "trio"])`."""
    return "asyncio"


# A property's time says nothing here: the machine is busy with the other tests too.
settings.register_profile("eventml", deadline=None, print_blob=True)
settings.load_profile("eventml")
